"""The augmentation sections of a recipe: what may be drawn for a training image, and how images are fitted.

Sizes are shares of the output (so a recipe means the same at 256 and at 768 pixels), except where a key says pixels.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.recipe.sections.base import Section

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]


class _Ranged(Section):
    """A section with ranges, pairs of numbers from and to."""

    def _ordered(self, key: str, above: float, up_to: float, of: str) -> None:
        """Raise ValueError unless `key` holds above < first <= second <= up_to."""
        low, high = getattr(self, key)
        if low > high:
            raise ValueError(f"{key}: the first number must not exceed the second, got {[low, high]}")
        if not (above < low and high <= up_to):
            raise ValueError(f"{key}: {of} lie above {above:g} and up to {up_to:g}, got {[low, high]}")


class CropSection(_Ranged):
    """Which part of the source a training image shows."""

    kind: Literal["random_resized", "center", "letterbox", "stretch"] = Field(
        "random_resized",
        description="random_resized: a random part, resized; center: the middle, aspect kept; letterbox: all of it, aspect kept, padded; stretch: all of it, aspect lost.",
    )
    scale: Range = Field((0.6, 1.0), description="random_resized: share of the area, from and to.")
    ratio: Range = Field((0.75, 4 / 3), description="random_resized: width over height of the part, from and to.")
    letterbox_p: Probability = Field(0.0, description="Chance that an image is letterboxed instead.")
    half_p: Probability = Field(
        0.0,
        description="Chance that only the left or only the right half of the source is used (when it is not letterboxed).",
    )

    @model_validator(mode="after")
    def _ranges(self) -> CropSection:
        self._ordered("scale", 0, 1, "shares of the area")
        self._ordered("ratio", 0, 100, "aspects")
        return self


class AffineSection(Section):
    """Shift, scale, rotate, shear, about the centre."""

    p: Probability = Field(0.0, description="Chance per image.")
    shift: Share = Field(0.05, description="Largest shift, as a share of the side.")
    scale: float = Field(0.1, ge=0, lt=1, description="Largest relative change of size.")
    rotate: float = Field(15.0, ge=0, le=180, description="Largest turn, degrees.")
    shear: float = Field(0.0, ge=0, lt=80, description="Largest slant along each axis, degrees.")


class PerspectiveSection(Section):
    """A view from a slightly different place."""

    p: Probability = Field(0.0, description="Chance per image.")
    distortion: float = Field(
        0.2, ge=0, lt=0.5, description="Each corner moves along both axes by up to half this share of the side."
    )


class ColorSection(Section):
    """Colour jitter; the four parts are applied in random order."""

    p: Probability = Field(0.0, description="Chance per image.")
    brightness: float = Field(0.4, ge=0, le=1, description="Factor within 1 +- this.")
    contrast: float = Field(0.4, ge=0, le=1, description="Factor within 1 +- this.")
    saturation: float = Field(0.4, ge=0, le=1, description="Factor within 1 +- this.")
    hue: float = Field(0.1, ge=0, le=0.5, description="Shift within +- this share of the colour circle.")


class ToneSection(_Ranged):
    """Stronger changes of colour, each with a chance of its own, after the jitter and in this order."""

    gamma: Probability = Field(0.0, description="Chance of x ** gamma.")
    gamma_range: Range = Field((0.7, 1.5), description="Gamma, from and to.")
    gray: Probability = Field(0.0, description="Chance of gray in place of colour.")
    shuffle: Probability = Field(0.0, description="Chance that the colour channels change places.")
    invert: Probability = Field(0.0, description="Chance of the negative.")
    solarize: Probability = Field(0.0, description="Chance that bright values are inverted.")
    solarize_range: Range = Field((0.5, 1.0), description="solarize: the value from which, drawn from and to.")
    posterize: Probability = Field(0.0, description="Chance of fewer bits per value.")
    posterize_bits: tuple[int, int] = Field((4, 7), description="posterize: bits kept, from and to.")

    @model_validator(mode="after")
    def _ranges(self) -> ToneSection:
        self._ordered("gamma_range", 0, 10, "gammas")
        self._ordered("solarize_range", 0, 1, "values")
        self._ordered("posterize_bits", 0, 8, "bits")
        return self


class PolicySection(Section):
    """A published policy in place of hand-picked chances; it comes after flips and affine, before colour jitter."""

    kind: Literal["none", "autoaugment", "randaugment", "trivialaugment"] = Field(
        "none",
        description="autoaugment: the ImageNet policy (Cubuk et al. 2019); randaugment: `operations` at `magnitude` (Cubuk et al. 2020); trivialaugment: one at any strength (Müller and Hutter 2021, wide).",
    )
    operations: int = Field(2, ge=1, le=8, description="randaugment: operations on each image (N).")
    magnitude: int = Field(9, ge=0, le=30, description="randaugment: their strength, 0 to 30 (M).")


class _Filled(_Ranged):
    p: Probability = Field(0.0, description="Chance per image.")
    fill: Literal["mean", "constant", "noise"] = Field("mean", description="What the rectangles are filled with.")
    color: tuple[Share, Share, Share] = Field(
        (0.0, 0.0, 0.0), description="fill = constant: red, green and blue, 0 to 1."
    )


class EraseSection(_Filled):
    """Coarse dropout: several rectangles filled."""

    count: tuple[int, int] = Field((1, 8), description="Number of rectangles, from and to.")
    size: Range = Field((0.1, 0.25), description="Side of a rectangle as a share of the image's side, from and to.")

    @model_validator(mode="after")
    def _ranges(self) -> EraseSection:
        self._ordered("count", 0, 32, "numbers of rectangles")
        self._ordered("size", 0, 1, "shares of the side")
        return self


class RandomErasingSection(_Filled):
    """Random erasing (Zhong et al. 2020): one rectangle of random area and aspect."""

    area: Range = Field((0.02, 0.33), description="Share of the image's area, from and to.")
    ratio: Range = Field((0.3, 3.3), description="Height over width, from and to.")

    @model_validator(mode="after")
    def _ranges(self) -> RandomErasingSection:
        self._ordered("area", 0, 1, "shares of the area")
        self._ordered("ratio", 0, 100, "aspects")
        return self


class CutoutSection(_Filled):
    """Cutout (DeVries and Taylor 2017): one square centred anywhere, so that it may reach over the edge."""

    size: float = Field(0.25, gt=0, le=2, description="Side of the square as a share of the shorter side.")


class CornerSection(_Filled):
    """A masked upper right corner, where cameras and web sites print their marks."""

    size: Range = Field((0.1, 0.3), description="Sides as shares of the image's sides, from and to.")

    @model_validator(mode="after")
    def _ranges(self) -> CornerSection:
        self._ordered("size", 0, 1, "shares of the side")
        return self


class ExtrasSection(_Ranged):
    """What no rule for a single pixel can express: Kornia's, between the geometry and the colours.

    Only the images that drew one pay for it. Lengths are in output pixels.
    """

    most: int = Field(
        1, ge=1, le=7, description="At most this many on one image; which of those drawn, and their order, is random."
    )
    blur: Probability = Field(0.0, description="Chance of a Gaussian blur.")
    blur_sigma: Range = Field((0.5, 2.0), description="Its standard deviation in pixels, from and to.")
    motion: Probability = Field(0.0, description="Chance of motion blur, in any direction.")
    motion_length: tuple[int, int] = Field((3, 11), description="Its length in pixels, from and to.")
    noise: Probability = Field(0.0, description="Chance of sensor noise.")
    noise_std: Range = Field((0.01, 0.06), description="Its standard deviation, of values 0 to 1, from and to.")
    jpeg: Probability = Field(0.0, description="Chance of JPEG artefacts.")
    jpeg_quality: Range = Field((20.0, 70.0), description="Their quality, 1 to 100, from and to.")
    clahe: Probability = Field(0.0, description="Chance of CLAHE, local contrast on an 8 x 8 grid.")
    clahe_clip: Range = Field((1.0, 4.0), description="Its clip limit, from and to.")
    equalize: Probability = Field(0.0, description="Chance that the histogram of each channel is equalised.")
    elastic: Probability = Field(0.0, description="Chance of an elastic deformation.")
    elastic_shift: Range = Field((0.004, 0.012), description="Its typical shift as a share of the side, from and to.")

    @model_validator(mode="after")
    def _ranges(self) -> ExtrasSection:
        self._ordered("blur_sigma", 0, 16, "pixels")
        self._ordered("motion_length", 2, 63, "pixels")
        self._ordered("noise_std", 0, 1, "shares of the value range")
        self._ordered("jpeg_quality", 0, 100, "qualities")
        self._ordered("clahe_clip", 0, 40, "clip limits")
        self._ordered("elastic_shift", 0, 0.2, "shares of the side")
        return self


class MixSection(Section):
    """MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019)."""

    mixup: float = Field(0.0, ge=0, le=64, description="Alpha of MixUp's beta distribution. 0: no MixUp.")
    cutmix: float = Field(0.0, ge=0, le=64, description="Alpha of CutMix's beta distribution. 0: no CutMix.")
    p: Probability = Field(1.0, description="Chance that an image is mixed.")
    cutmix_share: Probability = Field(
        0.5, description="With both alphas above 0: the share of mixed images that get CutMix."
    )
    per: Literal["sample", "batch"] = Field(
        "sample", description="Whether each image or each batch draws whether, how and how strongly to mix."
    )
    epochs: tuple[int, int] | None = Field(
        None, description="First and last epoch of the run, counted from 0, in which this applies. Not given: all."
    )

    @model_validator(mode="after")
    def _span(self) -> MixSection:
        if self.epochs is not None and not 0 <= self.epochs[0] <= self.epochs[1]:
            raise ValueError(f"epochs: expected the first and the last, counted from 0, got {list(self.epochs)}")
        return self


class ValidSection(Section):
    """How an image is fitted when it is scored or predicted; saved with the weights as their contract."""

    fit: Literal["center", "letterbox", "stretch"] = Field(
        "center",
        description="center: the middle, aspect kept; letterbox: all of it, padded; stretch: all of it, aspect lost. Score as you train: a network that never saw padding (augment.crop) cannot read a letterbox.",
    )
    crop: float = Field(1.0, gt=0, le=1, description="center: the share of the shorter side that is kept.")


class AugmentSection(Section):
    """What happens to pixels on the device, in one pass."""

    executor: Literal["auto", "reference", "cpu", "triton", "kornia"] = Field(
        "auto",
        description="What runs the pass. auto: the fast one for the device; reference: plain torch; kornia: Kornia's own functions, for comparison.",
    )
    filter: Literal["auto", "nearest", "bilinear", "bicubic"] = Field(
        "auto",
        description="Interpolation, antialiased when shrinking; bicubic is as PIL's. auto: the one that the backbone was pretrained with, in training as in scoring. It is saved with the weights.",
    )
    border: Literal["constant", "edge", "reflect"] = Field(
        "reflect",
        description="What shows beyond the image when it is moved. constant: the normalisation mean, as always around a letterbox.",
    )
    crop: CropSection = Field(CropSection(), description="Which part of the source is shown.")
    flip: Probability = Field(0.5, description="Chance of a horizontal flip.")
    vertical_flip: Probability = Field(0.0, description="Chance of a vertical flip.")
    quarter_turn: Probability = Field(0.0, description="Chance of a turn by 90, 180 or 270 degrees, equally likely.")
    affine: AffineSection = Field(AffineSection(), description="Shift, scale, rotate, shear.")
    perspective: PerspectiveSection = Field(PerspectiveSection(), description="Perspective.")
    policy: PolicySection = Field(PolicySection(), description="AutoAugment, RandAugment or TrivialAugment.")
    color: ColorSection = Field(ColorSection(), description="Colour jitter.")
    tone: ToneSection = Field(ToneSection(), description="Gamma, gray, channel order, negative, solarize, posterize.")
    erase: EraseSection = Field(EraseSection(), description="Coarse dropout.")
    random_erasing: RandomErasingSection = Field(RandomErasingSection(), description="Random erasing.")
    cutout: CutoutSection = Field(CutoutSection(), description="Cutout.")
    corner: CornerSection = Field(CornerSection(), description="A masked upper right corner.")
    extras: ExtrasSection = Field(ExtrasSection(), description="Blur, noise, JPEG artefacts, CLAHE, elastic.")
    mix: tuple[MixSection, ...] = Field(
        (),
        description="MixUp and CutMix, one [[augment.mix]] per span of epochs; the first that covers an epoch applies.",
    )
    valid: ValidSection = Field(ValidSection(), description="Fitting for scoring and prediction.")
