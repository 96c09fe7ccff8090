"""The recipe: frozen, typed sections, one per room. A room is handed its own section and nothing more.

pydantic checks types and ranges; what needs the data or the backbone (a fold count against the smallest class, a stage
size against the backbone) is checked by the room that knows it, with the same kind of error. The description of every
field is its documentation: `docs/recipes.md` is made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from engine.recipe.sections.augment import AugmentSection, MixSection


class Section(BaseModel):
    """Frozen; unknown keys are refused (load.py then names the nearest valid one)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _pair(value: object) -> object:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


Pixels = Annotated[int, Field(ge=8, le=4096)]
Size = Annotated[tuple[Pixels, Pixels], BeforeValidator(_pair)]
Switch = Literal["auto", "on", "off"]


class FoldsSection(Section):
    """How the samples are split into training and validation."""

    count: int = Field(
        5,
        ge=1,
        le=100,
        description="Number of stratified folds. 1: nothing is held out, one model is trained on everything, and its last epoch is kept.",
    )
    run: tuple[int, ...] = Field(
        (),
        description="Which folds to train, from 0. Empty: all of them. With count = 5, [0] is a plain hold-out of a fifth.",
    )
    seed: int | None = Field(None, description="Seed of the split. Not given: the recipe's seed.")
    near_duplicates: Literal["together", "apart"] = Field(
        "together",
        description="together: images that nearly equal each other (data.near_bits) are never split across training and validation; apart: they are split like all others.",
    )

    @model_validator(mode="after")
    def _run_below_count(self) -> FoldsSection:
        for fold in self.run:
            if not 0 <= fold < self.count:
                raise ValueError(f"run: fold {fold} does not exist, folds are 0 to {self.count - 1}")
        if len(set(self.run)) != len(self.run):
            raise ValueError("run: a fold is named twice")
        return self


Names = tuple[Annotated[str, Field(min_length=1)], ...]


class DataSection(Section):
    """Where the images and labels are, and how they are cleaned. Relative paths start at the folder the command runs in."""

    train: str = Field(
        "", description="Training images: a folder with one sub-folder per class, or a .csv or .parquet table."
    )
    test: str = Field("", description="Images to predict: a folder, or a .csv or .parquet table.")
    images: str = Field("", description="Folder that a table's paths start from. Empty: the table's own folder.")
    test_images: str = Field(
        "", description="Folder that the paths of a table of test images start from. Empty: the same as images."
    )
    path_column: str = Field(
        "",
        description="Table column with the image path. Empty: path, img_path, image, file or filename, whichever is there, else the id.",
    )
    label_column: str = Field(
        "", description="Table column with the label. Empty: label, class, target or category, whichever is there."
    )
    id_column: str = Field(
        "", description="Table column with the sample id. Empty: ID or id when there is one, else the path."
    )
    group_column: str = Field(
        "", description="Table column whose equal values never fall on both sides of a split. Empty: no groups."
    )
    fold_column: str = Field(
        "",
        description="Table column with the fold each sample is validated in, from 0; -1 or nothing: never. The words train and valid stand for -1 and 0. Empty: the split is drawn.",
    )
    exclude: Names = Field(
        (), description="Training images to leave out: ids, file names, or paths from the data folder."
    )
    exclude_file: str = Field(
        "", description="A text file with more of them, one a line; lines that begin with # are passed over."
    )
    relabel: str = Field(
        "",
        description="A table (.csv) of training images whose label is wrong: the image (as in exclude) and its true label.",
    )
    label_table: str = Field(
        "",
        description="A table (.csv) whose first column holds labels as they are found and whose second one the class names they stand for, such as a meta.csv or what `engine data names` writes.",
    )
    label_names: tuple[tuple[str, str], ...] = Field(
        (),
        description="The same in the recipe: pairs [label as found, class name]. Trained models keep the label table here.",
    )
    aliases: tuple[Names, ...] = Field(
        (),
        description="Class names that mean the same, a list for each class: trained, predicted and scored as one class under the first name.",
    )
    alias_columns: Literal["split", "each", "first"] = Field(
        "split",
        description="A submission with a column for every alias. split: the class's probability is shared equally, so rows sum to 1 and a scorer that adds the columns sees all of it; each: every column holds all of it; first: the first column holds all of it and the others 0.",
    )
    class_groups: tuple[Names, ...] = Field(
        (),
        description="Classes that belong together: a list for each group, its name and then class names, in which * stands for anything. Counted by `engine data check`, scored as group_accuracy.",
    )
    check: Literal["decode", "header"] = Field(
        "decode",
        description="What is looked at before training. decode: every image is decoded once, at a low resolution (half the work of one epoch of decoding; what is found is kept in the cache), damaged ones are left out, near-duplicates are found; header: only file headers, and damaged images are left out when their batch comes.",
    )
    duplicates: Literal["collapse", "keep"] = Field(
        "collapse",
        description="Files with equal content and label. collapse: the first one stands for all; keep: all of them stay, in one fold.",
    )
    conflicts: Literal["drop", "keep"] = Field(
        "drop",
        description="Files with equal content and different labels. drop: all of them are left out; keep: all of them stay, in one fold.",
    )
    near_bits: int = Field(
        24,
        ge=0,
        le=31,
        description="Near-duplicates are images whose perceptual hashes differ in at most this many of 256 bits, also when mirrored or turned by quarters.",
    )
    copies: Literal["with", "only", "without"] = Field(
        "with",
        description="Augmented copies that `engine data augment` lists in a table. with: trained on beside the originals; only: trained on in their place; without: left out. They are never validated on, nor trained on when their original is held out.",
    )
    sample_submission: str = Field(
        "",
        description="A sample submission file (.csv); its columns and order shape submission.csv. Empty: id, label, probabilities.",
    )
    cache: str = Field(
        "",
        description="Folder for the manifest cache. Empty: beside the data, or the user's cache folder where that is read-only.",
    )
    folds: FoldsSection = Field(FoldsSection(), description="The split into folds.")


class DecodeSection(Section):
    """JPEG bytes to pixels."""

    device: Literal["auto", "gpu", "cpu"] = Field(
        "auto", description="Where to decode. auto: on the GPU when there is one."
    )
    decoder: Literal["auto", "dali", "turbo"] = Field(
        "auto",
        description="dali: NVIDIA DALI; turbo: libjpeg-turbo, on the CPU, only the part of a photo that a training image shows and no larger than needed. auto: turbo on the CPU where it is built in, else dali.",
    )
    threads: int = Field(0, ge=0, le=256, description="CPU threads for decoding. 0: one per available core.")
    prefetch: int = Field(2, ge=1, le=16, description="Decoded batches kept ready ahead of the model.")


class ModelSection(Section):
    """The network: a timm backbone, a pooling, a head."""

    backbone: str = Field("convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384", description="Any timm model name.")
    pretrained: bool = Field(True, description="Start from the pretrained weights of timm's hub.")
    weights: str = Field("", description="Start from this file instead (safetensors, or a PyTorch file of tensors).")
    pooling: Literal["avg", "gem", "gem2"] = Field(
        "avg",
        description="avg: mean; gem: generalised mean, p learned from 3; gem2: one for each of the last two feature maps, normalised and joined.",
    )
    head: Literal["linear", "mlp", "arcface"] = Field(
        "linear",
        description="linear; mlp: a hidden layer as wide as the image's vector before it; arcface: sub-center ArcFace (cosine logits with an angular margin).",
    )
    subcenters: int = Field(3, ge=1, le=16, description="arcface: centres per class (K).")
    scale: float = Field(30.0, gt=0, description="arcface: factor on the cosine logits (s).")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the head.")


# What a validation is scored by; the names of engine.metrics, which this room does not import.
Metric = Literal[
    "log_loss",
    "accuracy",
    "top3_accuracy",
    "top5_accuracy",
    "macro_f1",
    "confidence_gap",
    "entropy",
    "calibration_error",
]


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
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto: bf16 autocast on a GPU that has it, else fp32."
    )
    channels_last: Switch = Field("auto", description="Channels-last weights. auto: on the GPU.")
    compile: Switch = Field("auto", description="torch.compile for the training step. auto: on the GPU.")

    @model_validator(mode="after")
    def _smoothing_has_a_loss(self) -> TrainSection:
        if self.loss == "focal" and self.label_smoothing:
            raise ValueError("label_smoothing: the focal loss takes hard labels; set it to 0, or choose another loss")
        return self


class PredictSection(Section):
    """Answering."""

    tta: int = Field(1, ge=1, le=10, description="Views of each image to average (test-time augmentation).")
    views: Literal["zooms", "crops"] = Field(
        "zooms",
        description="zooms: the image as it was validated, then mirrored, closer and from farther off; crops: with tta = 5 its middle and four corners, 224 / 256 of each side, with tta = 10 each of them mirrored, too.",
    )
    batch: int = Field(64, ge=1, description="Images in a batch.")
    specialists: bool = Field(
        True, description="Whether the specialists that were trained beside the models are asked."
    )

    @model_validator(mode="after")
    def _crops_come_in_fives(self) -> PredictSection:
        if self.views == "crops" and self.tta not in (5, 10):
            raise ValueError(f'tta: views = "crops" has 5 or 10 of them, got {self.tta}')
        return self


class SpecialistSection(Section):
    """A second model for classes that look alike, asked about the images to which the main model gives one of them.

    It is trained after the main model, fold by fold with the same folds, in a folder of its own. Keys of its `model`,
    `train` and `augment` that are not given are as in the recipe's.
    """

    name: str = Field(
        min_length=1,
        pattern=r"^\w[\w.-]*$",
        description="Its name, and that of its folder: letters, digits, _, - and full stops.",
    )
    classes: Names = Field(
        min_length=1,
        description="Two or more: it is trained on the images of these classes alone and answers among them. One: it is trained on all images and says whether they are of that class.",
    )
    blend: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Its share of the answer among its classes; the rest is the main model's. 1: its answer stands. May be changed after training: run the same command again.",
    )
    augment: AugmentSection | None = Field(None, description="Its augmentation, where it differs.")
    model: ModelSection | None = Field(None, description="Its network, where it differs.")
    train: TrainSection | None = Field(None, description="Its optimisation, where it differs.")
    stage: tuple[StageSection, ...] = Field((), description="Its stages. Empty: the recipe's.")

    @model_validator(mode="after")
    def _classes_differ(self) -> SpecialistSection:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: a class is named twice")
        return self


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own`, and of `base` what it leaves out."""
    both = {key: _over(base[key], value) for key, value in own.items() if _are_tables(base.get(key), value)}
    return {**base, **own, **both}


def _are_tables(*values: object) -> bool:
    return all(isinstance(value, Mapping) for value in values)


class TrackSection(Section):
    """Where a run can be followed and compared with others, beside its own log.jsonl. An epoch's number is that of the
    log, from 0; a tracker that cannot be reached is caught up later."""

    tensorboard: bool = Field(
        True, description="Write TensorBoard's event files into the folder tensorboard of output."
    )
    wandb: str = Field(
        "",
        description="Weights & Biases: the project, or entity/project; one run a fold, in one group. Empty: not used. Needs the extra `track`.",
    )
    wandb_mode: Literal["online", "offline"] = Field(
        "online",
        description="offline: written into the folder wandb of output, for `wandb sync`. The environment's WANDB_MODE goes first.",
    )
    mlflow: str = Field(
        "",
        description="MLflow: a tracking URI such as http://host:5000 or sqlite:///mlruns.db, or a folder, which gets a database; a run with one run a fold in it. Empty: not used. Needs the extra `track`.",
    )
    mlflow_experiment: str = Field("engine", min_length=1, description="The experiment's name in MLflow.")


class Recipe(Section):
    """A whole run."""

    name: str = Field("run", min_length=1, description="Name of the run, for logs and reports.")
    seed: int = Field(0, ge=0, lt=2**31, description="Every random choice is drawn from this.")
    output: str = Field(
        "models", min_length=1, description="Folder for the fold models, logs and out-of-fold predictions."
    )
    data: DataSection = Field(DataSection(), description="Images and labels.")
    decode: DecodeSection = Field(DecodeSection(), description="Decoding.")
    augment: AugmentSection = Field(AugmentSection(), description="Augmentation.")
    model: ModelSection = Field(ModelSection(), description="The network.")
    train: TrainSection = Field(TrainSection(), description="Optimisation.")
    stage: tuple[StageSection, ...] = Field(min_length=1, description="The stages, one [[stage]] each.")
    specialist: tuple[SpecialistSection, ...] = Field(
        (), description="Specialists, one [[specialist]] each, asked in this order."
    )
    predict: PredictSection = Field(PredictSection(), description="Prediction.")
    track: TrackSection = Field(TrackSection(), description="Experiment trackers.")

    @model_validator(mode="before")
    @classmethod
    def _specialists_are_as_the_recipe(cls, tables: Any) -> Any:
        """What a specialist's sections leave out is filled in."""
        specialists = tables.get("specialist") if isinstance(tables, Mapping) else None
        if not isinstance(specialists, tuple | list) or not _are_tables(*specialists):
            return tables
        filled = []
        for own in specialists:
            bases = {key: tables.get(key, {}) for key in ("augment", "model", "train") if _are_tables(own.get(key))}
            filled.append({**own, **_over({k: base for k, base in bases.items() if _are_tables(base)}, own)})
        return {**tables, "specialist": tuple(filled)}

    @model_validator(mode="after")
    def _specialists_can_be_trained(self) -> Recipe:
        names = [specialist.name.casefold() for specialist in self.specialist]
        for i, specialist in enumerate(self.specialist):
            if names.index(names[i]) < i:
                raise ValueError(f"specialist.{i}.name: {specialist.name} is the name of another one")
            if fault := _fault_of_stages(self.of_specialist(specialist)):
                raise ValueError(f"specialist {specialist.name}: {fault}")
        return self

    def of_specialist(self, specialist: SpecialistSection) -> Recipe:
        """The recipe that it is trained by."""
        own = {
            "name": f"{self.name} {specialist.name}",
            "augment": specialist.augment or self.augment,
            "model": specialist.model or self.model,
            "train": specialist.train or self.train,
            "stage": specialist.stage or self.stage,
            "specialist": (),
        }
        return self.model_copy(update=own)

    @model_validator(mode="after")
    def _stages_have_what_they_need(self) -> Recipe:
        if fault := _fault_of_stages(self):
            raise ValueError(fault)
        return self


def _fault_of_stages(recipe: Recipe) -> str:
    """What the stages need of the rest of the recipe and do not find there, "" for nothing."""
    for i, stage in enumerate(recipe.stage):
        if stage.margin and recipe.model.head != "arcface":
            return f'stage.{i}.margin needs a head with angles: set model.head = "arcface", or it to 0'
    if recipe.stage[0].start_from != "last":
        return "stage.0.start_from: there is no stage before the first one"
    if not recipe.train.ema and any(stage.start_from == "average" for stage in recipe.stage):
        return 'stage start_from = "average" needs a moving average: set train.ema'
    return ""
