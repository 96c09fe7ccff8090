"""Which part of a model learns in which epoch: the head alone at first, then the backbone from its last layer down."""

from __future__ import annotations

from torch import nn

from engine.model.build import Classifier
from engine.recipe.sections import StageSection
from engine.training.optim import backbone_layers


def thawed_layers(stage: StageSection, epoch: int) -> int | None:
    """How many of the backbone's last layers learn in an epoch of the stage; None: all of them."""
    if epoch < stage.head_only:
        return 0
    if stage.thaw_blocks == 0:
        return None
    return (epoch - stage.head_only + 1) * stage.thaw_blocks


class Freezer:
    """Freezes and thaws a model's backbone. Parameters that never learn (fixed position codes) stay as they are."""

    def __init__(self, model: Classifier) -> None:
        self._model = model
        self._learning = [p for p in model.parameters() if p.requires_grad]

    def thaw(self, layers: int | None) -> bool:
        """Let the last `layers` of the backbone learn, with pooling and head; None: all layers. Whether that changes
        anything."""
        before = [p.requires_grad for p in self._learning]
        for parameter in self._learning:
            parameter.requires_grad_(True)
        if layers is not None:
            frozen = backbone_layers(self._model)[: -layers or None]
            for parameter in (p for layer in frozen for p in layer):
                parameter.requires_grad_(False)
        return before != [p.requires_grad for p in self._learning]


def to_training(model: Classifier) -> None:
    """Training mode for what learns. What is frozen stays as in use: its batch norms keep their statistics, and a
    backbone that is frozen as a whole drops nothing."""
    model.train()
    if not any(parameter.requires_grad for parameter in model.backbone_parameters()):
        model.backbone.eval()
    for module in model.backbone.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            _rest(module)


def _rest(module: nn.Module) -> None:
    module.training = False  # of this module alone: eval() would take its children along
