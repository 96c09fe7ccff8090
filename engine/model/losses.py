"""What training makes small: a rule per (sample, class), and one way to mix classes, weigh them and add a margin.

Every loss is the share of the sample's own class times its loss, plus the partner's share times the partner's. For
cross-entropy and binary cross-entropy that equals the loss against the mixed soft label; written this way it needs no
(B, C) label matrix, and an angular margin falls on the true class of each part alone, where it belongs. Labels without
mixing are a share of 1.

What a teacher answers is learnt by cross-entropy, whatever the rule: it is the rule of answers that are probabilities.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.augment.mix import Labels, TaughtLabels
from engine.errors import RecipeError
from engine.recipe.sections import ModelSection, TrainSection

Rule = Callable[[Tensor, Tensor], Tensor]  # (logits_BC, classes_B) -> loss_B


class AngularMargin(nn.Module):
    """ArcFace's margin: the true class's cosine becomes cos(angle + margin), so its logit falls; no other changes.

    Beyond angle = pi - margin, where cos(angle + margin) would rise again, cos(angle) - margin * sin(margin) takes over
    and keeps the logit falling with the angle. The margin is a buffer, so that changing it does not recompile.

    Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019.
    """

    margin: Tensor

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("margin", torch.zeros(()), persistent=False)

    def forward(self, logits_BC: Tensor, classes_B: Tensor) -> Tensor:
        """(B, C) logits of a cosine head and (B,) classes -> (B, C) logits, those of `classes_B` lowered."""
        cosine_B1 = logits_BC.gather(1, classes_B[:, None]) / self.scale
        sine_B1 = (1 - cosine_B1.square()).clamp(min=1e-6).sqrt()  # the root's slope stays finite at angle 0
        cos_m, sin_m = self.margin.cos(), self.margin.sin()
        lowered_B1 = torch.where(
            cosine_B1 > -cos_m, cosine_B1 * cos_m - sine_B1 * sin_m, cosine_B1 - self.margin * sin_m
        )
        return logits_BC.scatter(1, classes_B[:, None], lowered_B1 * self.scale)


class Loss(nn.Module):
    """The training loss: logits (B, C) of any float dtype, labels (B,) int64 or Labels -> scalar float32.

    A teacher's answers have their own shares of it (Hinton et al., "Distilling the Knowledge in a Neural Network",
    2015), and neither margin nor weights of classes touch these.

    `weights_C` multiplies what a sample costs by the weight of its class, each part of a mixed one by its own.
    """

    weights_C: Tensor | None

    def __init__(self, rule: Rule, margin: AngularMargin | None = None, weights_C: Tensor | None = None) -> None:
        super().__init__()
        self.rule = rule
        self.margin = margin
        self.register_buffer("weights_C", weights_C, persistent=False)

    def set_margin(self, margin: float) -> None:
        """Set the angular margin in radians, without recompiling. RecipeError when the head has no angles."""
        if self.margin is not None:
            self.margin.margin.fill_(margin)
        elif margin != 0:
            raise RecipeError(
                f'stage margin = {margin} needs a head with angles: set model.head = "arcface", or the margin to 0'
            )

    def forward(self, logits_BC: Tensor, labels: Tensor | Labels) -> Tensor:
        with torch.autocast(logits_BC.device.type, enabled=False):
            logits_BC = logits_BC.float()
            if isinstance(labels, Tensor):
                return self._per_sample(logits_BC, labels).mean()
            if isinstance(labels, TaughtLabels):
                own_B = labels.own_share_B * self._per_sample(logits_BC, labels.own_B)
                partner_B = labels.partner_share_B * self._per_sample(logits_BC, labels.partner_B)
                return (own_B + partner_B + _untaught(logits_BC, labels)).mean()
            own_B = labels.share_B * self._per_sample(logits_BC, labels.own_B)
            partner_B = (1 - labels.share_B) * self._per_sample(logits_BC, labels.partner_B)
            return (own_B + partner_B).mean()

    def _per_sample(self, logits_BC: Tensor, classes_B: Tensor) -> Tensor:
        if self.margin is not None:
            logits_BC = self.margin(logits_BC, classes_B)
        loss_B = self.rule(logits_BC, classes_B)
        return loss_B if self.weights_C is None else loss_B * self.weights_C[classes_B]


def _untaught(logits_BC: Tensor, labels: TaughtLabels) -> Tensor:
    """How far each answer is from the teacher's, (B,), at the temperature. Slopes shrink with its square, so that is
    made up for."""
    log_p_BC = functional.log_softmax(logits_BC / labels.temperature, 1)
    return -(labels.answer_BC * log_p_BC).sum(1) * labels.temperature**2


class CrossEntropy(nn.Module):
    """Softmax cross-entropy with `label_smoothing` of the label spread evenly over all classes."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits_BC: Tensor, classes_B: Tensor) -> Tensor:
        return functional.cross_entropy(logits_BC, classes_B, reduction="none", label_smoothing=self.label_smoothing)


class Focal(nn.Module):
    """Cross-entropy times (1 - probability of the true class) ** gamma: what is known already counts less.

    The per-class alpha of the paper is `weights_C` of the Loss. gamma = 0 is cross-entropy.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits_BC: Tensor, classes_B: Tensor) -> Tensor:
        log_true_B = -functional.cross_entropy(logits_BC, classes_B, reduction="none")
        # -expm1 keeps 1 - p exact near p = 1; the floor keeps the power's slope finite for gamma < 1
        missing_B = (-torch.expm1(log_true_B)).clamp(min=1e-12)
        return -(missing_B**self.gamma) * log_true_B


class BinaryCrossEntropy(nn.Module):
    """One yes-or-no question a class, averaged over the classes; `label_smoothing` as for cross-entropy.

    Source: Wightman, Touvron, Jegou, "ResNet strikes back", 2021 (which mixes labels under it as this Loss does).
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits_BC: Tensor, classes_B: Tensor) -> Tensor:
        off = self.label_smoothing / logits_BC.shape[1]
        target_BC = torch.full_like(logits_BC, off).scatter(1, classes_B[:, None], 1 - self.label_smoothing + off)
        return functional.binary_cross_entropy_with_logits(logits_BC, target_BC, reduction="none").mean(1)


def class_weights(counts_C: Tensor, power: float = 1.0) -> Tensor:
    """Weights (C,) float32 proportional to 1 / count ** power, averaging 1 over the samples counted.

    power 1 makes every class cost the same in sum, 0 every sample. Classes without samples get 0.
    """
    counts_C = counts_C.double()
    raw_C = torch.where(counts_C > 0, counts_C.clamp(min=1) ** -power, 0.0)
    return (raw_C * counts_C.sum() / (raw_C * counts_C).sum()).float()


def build_loss(model: ModelSection, train: TrainSection, counts_C: Tensor | None = None) -> Loss:
    """The loss that the recipe names, with an angular margin (0 until set) when the head is ArcFace.

    `counts_C` are the training samples of each class, which `train.class_weights` weighs by.
    """
    rule: Rule
    match train.loss:
        case "cross_entropy":
            rule = CrossEntropy(train.label_smoothing)
        case "focal":
            rule = Focal(train.focal_gamma)
        case "bce":
            rule = BinaryCrossEntropy(train.label_smoothing)
    margin = AngularMargin(model.scale) if model.head == "arcface" else None
    weights_C = None
    if counts_C is not None and train.class_weights > 0:
        weights_C = class_weights(counts_C, train.class_weights)
    return Loss(rule, margin, weights_C)
