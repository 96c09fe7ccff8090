"""The licence of the weights that training began with, as far as it is known: who hands a model on has to say it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from engine.recipe.sections import ModelSection


@dataclasses.dataclass(frozen=True)
class Licence:
    """Of the weights that a model of `backbone` began with: `start` from timm's own, from a file (its name), or from
    none. timm: the licence of timm's own weights of this backbone, origin: where timm has them from; "" where it does
    not say, and where there were no weights to begin with. Of a file, nobody knows whether it holds these."""

    backbone: str
    start: Literal["timm", "file", "nothing"]
    file: str = ""
    timm: str = ""
    origin: str = ""


def starting_licence(model: ModelSection) -> Licence:
    """As far as timm, which is asked without a network, knows."""
    if not (model.weights or model.pretrained):
        return Licence(model.backbone, "nothing")
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(model.backbone, allow_unregistered=True)
    licence, origin = (str(getattr(cfg, name, None) or "") for name in ("license", "origin_url"))
    start: Literal["timm", "file"] = "file" if model.weights else "timm"
    return Licence(model.backbone, start, Path(model.weights).name, licence, origin)
