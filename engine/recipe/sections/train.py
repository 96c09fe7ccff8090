"""The train section and the stages: how the network learns, in which order of sizes, and when it stops."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from engine.recipe.sections.augment import MixSection
from engine.recipe.sections.base import Names, Section, Size, Switch

# What a validation is scored by; the names of engine.metrics, which this room does not import.
Metric = Literal[
    "log_loss",
    "accuracy",
    "top3_accuracy",
    "top5_accuracy",
    "macro_f1",
    "weighted_f1",
    "balanced_accuracy",
    "kappa",
    "auc",
    "brier",
    "confidence_gap",
    "entropy",
    "calibration_error",
]


# Modes of torch.compile in which what is compiled is recorded as CUDA graphs.
RECORDING_MODES = ("reduce-overhead", "max-autotune")


class ScheduleSection(Section):
    """How the learning rate moves, as a factor on the stage's; it is set anew at every step."""

    kind: Literal["cosine", "constant", "exponential", "step", "restarts", "plateau", "points"] = Field(
        "cosine",
        description="cosine: down to min_lr_ratio; constant; exponential: falls by `decay` every `decay_steps`; step: by `decay` at each of `milestones`; restarts: a cosine begun again and again; plateau: falls by `decay` when train.select has not got better for more than `patience` epochs; points: straight lines between `points`.",
    )
    over: Literal["stage", "run"] = Field(
        "stage",
        description="Whether it begins again with each stage, or goes once over the whole run (each stage's rate times the run's factor).",
    )
    warmup_epochs: float = Field(0.5, ge=0, description="Linear warm-up ahead of it, in epochs.")
    min_lr_ratio: float = Field(0.01, ge=0, le=1, description="The factor never falls below this, but in the warm-up.")
    decay: float = Field(0.5, gt=0, le=1, description="exponential, step, plateau: the factor of one fall.")
    decay_steps: int = Field(
        0,
        ge=0,
        description="exponential: steps, counted from the warm-up's end, in which the rate falls by `decay`. 0: an epoch.",
    )
    milestones: tuple[float, ...] = Field((), description="step: epochs after which the rate falls, such as [10, 15].")
    restart_epochs: float = Field(10.0, gt=0, description="restarts: epochs of the first cosine.")
    restart_growth: float = Field(
        1.0, ge=1, description="restarts: each cosine is this many times as long as the last."
    )
    patience: int = Field(2, ge=0, description="plateau: epochs without a new best that are put up with.")
    points: tuple[tuple[float, float], ...] = Field(
        (), description="points: pairs [epoch, factor], by rising epoch, such as [[0, 1.0], [5, 1.0], [8, 0.1]]."
    )

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> ScheduleSection:
        if self.kind == "step" and not self.milestones:
            raise ValueError('milestones: kind = "step" needs the epochs after which the rate falls')
        if self.kind == "points" and not self.points:
            raise ValueError('points: kind = "points" needs pairs [epoch, factor]')
        epochs = [epoch for epoch, _ in self.points]
        if sorted(set(epochs)) != epochs or any(factor < 0 for _, factor in self.points):
            raise ValueError("points: expected rising epochs and factors of 0 or more")
        return self


class EarlyStopSection(Section):
    """Ends a stage that no longer gets better. The best epoch is what is kept, whenever it was."""

    patience: int = Field(0, ge=0, description="Epochs of a stage without a new best after which it ends. 0: never.")
    metric: Literal["select", "train_loss", Metric] = Field(
        "select", description="What has to get better. select: the metric of train.select."
    )
    min_delta: float = Field(0.0, ge=0, description="Gains up to this do not count.")


class StageSection(Section):
    """One resolution of the run. Stages follow each other in the order written."""

    size: Size = Field(description="Image size in pixels: one number, or [height, width].")
    batch: int = Field(ge=1, description="Images that go through the model together, on each process.")
    epochs: int = Field(ge=1, description="Passes over the training images.")
    lr: float = Field(gt=0, description="Peak learning rate of the stage.")
    mix: MixSection | None = Field(None, description="MixUp and CutMix in this stage, in place of augment.mix.")
    schedule: ScheduleSection | None = Field(
        None, description="How the rate moves in this stage, in place of train.schedule."
    )
    early_stop: EarlyStopSection | None = Field(
        None, description="When this stage ends early, in place of train.early_stop."
    )
    accumulate: int = Field(
        1, ge=1, le=1024, description="Batches whose gradients are put together for one step: as one batch of them all."
    )
    margin: float = Field(0.0, ge=0, lt=1.57, description="arcface: angular margin, radians.")
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="Stochastic depth rate of the last block; earlier blocks have less, linearly."
    )
    ema_restart: bool = Field(False, description="Start the average again from the current weights.")
    start_from: Literal["last", "best", "average"] = Field(
        "last",
        description="Weights to begin with, of the stage before: last: those it ended with; best: those scored in its best epoch by train.select; average: its moving average. With another than last the optimiser and the average start again.",
    )
    head_only: int = Field(
        0, ge=0, description="Epochs at the stage's beginning in which only pooling and head learn; batch norms rest."
    )
    thaw_blocks: int = Field(
        0,
        ge=0,
        description="Blocks of the backbone that join each epoch after those, from the last one down. 0: all at once.",
    )
    checkpoint_activations: bool = Field(
        False,
        description="Keep of the backbone's blocks only what goes into them, and compute the rest again for the gradients: much less memory, for about a third more work. The weights come out as without it. Not for backbones with batch norms.",
    )


class SamplingSection(Section):
    """Which images an epoch is made of. It is as long as the training images are many, however they are drawn."""

    power: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Images are drawn in proportion to 1 / (images of their class) to this power. 0: each once; 1: every class equally often. An image drawn again is augmented anew.",
    )
    boost_classes: Names = Field((), description="Classes that are drawn more often than that.")
    boost: float = Field(2.0, gt=0, description="How many times as often.")
    hard_pairs: int = Field(
        0,
        ge=0,
        description="After each validation, this many of the most confused pairs of classes fill batches of the next epoch. 0: none.",
    )
    hard_share: float = Field(0.3, gt=0, le=1, description="Share of the batches that they fill.")


class TrainSection(Section):
    """Optimisation."""

    optimizer: str = Field(
        "adamw", min_length=1, description="adamw, adam, sgd (with Nesterov's momentum), or any of timm's by name."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd and of timm's optimisers that have one.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay; biases, norms and other vectors have none.")
    head_lr_multiplier: float = Field(1.0, gt=0, description="The head's learning rate is the stage's times this.")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Each layer of the backbone learns at this share of the rate of the one above it."
    )
    schedule: ScheduleSection = Field(ScheduleSection(), description="How the learning rate moves.")
    clip: float = Field(1.0, ge=0, description="Gradient norm is clipped to this. 0: not clipped.")
    loss: Literal["cross_entropy", "focal", "bce"] = Field(
        "cross_entropy",
        description="cross_entropy; focal: what is known already counts less (Lin et al. 2017); bce: binary cross-entropy, a yes or no for each class. Mixed labels weigh the losses of both classes.",
    )
    focal_gamma: float = Field(2.0, ge=0, description="focal: how much less. 0: cross-entropy.")
    class_weights: float = Field(
        0.0,
        ge=0,
        le=2,
        description="The loss of an image is weighted by 1 / (training images of its class) to this power (focal loss's alpha). 0: all alike; 1: every class counts the same.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="cross_entropy, bce: share of the label spread over all classes."
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of the exponential moving average of the weights, which is then what is scored and saved. 0: none.",
    )
    swa_epochs: int = Field(
        0,
        ge=0,
        description="Epochs at the run's end whose weights are averaged (SWA); from the first of them on, that average is what is scored and saved. Batch norms are estimated anew for it.",
    )
    select: Metric = Field("log_loss", description="The validation metric whose best epoch is kept.")
    keep_last: int = Field(
        0,
        ge=0,
        description="The last so many epochs are kept, each in a folder of its own beside the best one; `engine infer` then averages these.",
    )
    keep_best: int = Field(0, ge=0, description="The same of the best so many epochs, by `select`.")
    early_stop: EarlyStopSection = Field(EarlyStopSection(), description="Ending a stage early.")
    sampling: SamplingSection = Field(SamplingSection(), description="What an epoch is made of.")
    precision: Literal["auto", "bf16", "fp32", "bf16_weights"] = Field(
        "auto",
        description="auto: bf16 autocast on a GPU that has it, else fp32. bf16_weights: steps go through a bf16 copy of the backbone, nothing in it being float32 but batch norms; the optimiser changes the float32 weights, which are what is averaged, scored and saved.",
    )
    channels_last: Switch = Field(
        "auto",
        description="Channels-last weights. auto: on, as batches are. off: for comparison; the last bits of answers differ.",
    )
    compile: Switch = Field("auto", description="torch.compile for the training step. auto: on the GPU.")
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = Field(
        "default",
        description="torch.compile's mode. reduce-overhead: what is compiled is launched as CUDA graphs; max-autotune: kernels are tried out as well, which takes minutes a stage; max-autotune-no-cudagraphs: that alone.",
    )
    cuda_graphs: bool = Field(
        False,
        description="On a GPU, record the whole step (forward, backward, clipping, optimiser) as one CUDA graph in each stage and launch it as one: for steps so short that launching their kernels takes longer than running them. Takes a copy of the batch. With adamw or adam, on one process, without accumulate and checkpoint_activations. On a CPU it changes nothing.",
    )

    @model_validator(mode="after")
    def _steps_are_compiled_and_recorded_once(self) -> TrainSection:
        if self.compile == "off" and self.compile_mode != "default":
            raise ValueError('compile_mode: with compile = "off" nothing is compiled; leave out one of the two')
        if self.cuda_graphs and self.compile_mode in RECORDING_MODES:
            raise ValueError(
                f'cuda_graphs: compile_mode = "{self.compile_mode}" records what is compiled already; leave out '
                'cuda_graphs, or set compile_mode = "default" or "max-autotune-no-cudagraphs"'
            )
        if self.cuda_graphs and self.optimizer.lower() not in ("adamw", "adam"):
            raise ValueError(
                f'cuda_graphs: "{self.optimizer}" counts its steps on the host, which a recording would not see; '
                'set optimizer = "adamw" or "adam", or leave out cuda_graphs'
            )
        return self

    @model_validator(mode="after")
    def _smoothing_has_a_loss(self) -> TrainSection:
        if self.loss == "focal" and self.label_smoothing:
            raise ValueError("label_smoothing: the focal loss takes hard labels; set it to 0, or choose another loss")
        return self
