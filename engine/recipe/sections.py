"""The recipe: frozen, typed sections, one per room. A room is handed its own section and nothing more.

pydantic checks types and ranges; what needs the data or the backbone (a fold count against the smallest class, a stage
size against the backbone) is checked by the room that knows it, with the same kind of error. The description of every
field is its documentation: `docs/recipes.md` is made from them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from engine.recipe.augment import AugmentSection, MixSection


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

    count: int = Field(5, ge=2, le=100, description="Number of stratified folds.")
    run: tuple[int, ...] = Field((), description="Which folds to train, from 0. Empty: all of them.")
    seed: int | None = Field(None, description="Seed of the split. Not given: the recipe's seed.")

    @model_validator(mode="after")
    def _run_below_count(self) -> FoldsSection:
        for fold in self.run:
            if not 0 <= fold < self.count:
                raise ValueError(f"run: fold {fold} does not exist, folds are 0 to {self.count - 1}")
        if len(set(self.run)) != len(self.run):
            raise ValueError("run: a fold is named twice")
        return self


class DataSection(Section):
    """Where the images and labels are. Relative paths start at the folder the command runs in."""

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
        description="Table column with the fold each sample is validated in, from 0; -1 or nothing: never. Empty: the split is drawn.",
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
    """JPEG bytes to pixels, by NVIDIA DALI."""

    device: Literal["auto", "gpu", "cpu"] = Field(
        "auto", description="Where to decode. auto: on the GPU when there is one."
    )
    threads: int = Field(
        0, ge=0, le=256, description="CPU threads for reading and decoding. 0: one per available core."
    )
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
    head: Literal["linear", "arcface"] = Field(
        "linear", description="linear, or sub-center ArcFace (cosine logits with an angular margin)."
    )
    subcenters: int = Field(3, ge=1, le=16, description="arcface: centres per class (K).")
    scale: float = Field(30.0, gt=0, description="arcface: factor on the cosine logits (s).")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the head.")


class StageSection(Section):
    """One resolution of the run. Stages follow each other in the order written."""

    size: Size = Field(description="Image size in pixels: one number, or [height, width].")
    batch: int = Field(ge=1, description="Images in a step, on each process.")
    epochs: int = Field(ge=1, description="Passes over the training images.")
    lr: float = Field(gt=0, description="Peak learning rate of the stage.")
    mix: MixSection | None = Field(None, description="MixUp and CutMix in this stage, in place of augment.mix.")
    margin: float = Field(0.0, ge=0, lt=1.57, description="arcface: angular margin, radians.")
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="Stochastic depth rate of the last block; earlier blocks have less, linearly."
    )
    ema_restart: bool = Field(False, description="Start the average again from the current weights.")


class TrainSection(Section):
    """Optimisation."""

    optimizer: Literal["adamw"] = Field("adamw", description="The optimiser.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay; biases, norms and other vectors have none.")
    head_lr_multiplier: float = Field(1.0, gt=0, description="The head's learning rate is the stage's times this.")
    warmup_epochs: float = Field(
        0.5, ge=0, description="Linear warm-up at the start of each stage, in epochs; then cosine."
    )
    min_lr_ratio: float = Field(
        0.01, ge=0, le=1, description="The cosine ends at this share of the stage's learning rate."
    )
    clip: float = Field(1.0, ge=0, description="Gradient norm is clipped to this. 0: not clipped.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the label spread over all classes.")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of the exponential moving average of the weights, which is then what is scored and saved. 0: none.",
    )
    select: Literal["log_loss", "accuracy", "macro_f1"] = Field(
        "log_loss", description="The validation metric whose best epoch is kept."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto: bf16 autocast on a GPU that has it, else fp32."
    )
    channels_last: Switch = Field("auto", description="Channels-last weights. auto: on the GPU.")
    compile: Switch = Field("auto", description="torch.compile for the training step. auto: on the GPU.")


class PredictSection(Section):
    """Answering."""

    tta: int = Field(1, ge=1, le=10, description="Views of each image to average (test-time augmentation).")
    batch: int = Field(64, ge=1, description="Images in a batch.")


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
    predict: PredictSection = Field(PredictSection(), description="Prediction.")
