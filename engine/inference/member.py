"""A checkpoint becomes a model that answers, with the pixels and the precision it was scored with."""

from __future__ import annotations

from typing import NamedTuple

import torch

from engine.augment.contract import Contract
from engine.model.build import Classifier, build_model
from engine.model.runtime import Runtime
from engine.recipe.load import parse_recipe
from engine.store.checkpoint import Checkpoint
from engine.store.run_folder import CHECKPOINT


class Member(NamedTuple):
    """One model, ready to answer."""

    model: Classifier
    contract: Contract
    runtime: Runtime


def restore(checkpoint: Checkpoint, device: torch.device) -> Member:
    """The checkpoint's model on `device`. Nothing is downloaded: all weights come from the checkpoint."""
    recipe = parse_recipe(checkpoint.recipe, origin=CHECKPOINT)
    architecture = recipe.model.model_copy(update={"pretrained": False, "weights": ""})
    model = build_model(architecture, len(checkpoint.classes), recipe.stage[0].size)
    model.load_state_dict(dict(checkpoint.weights))
    runtime = Runtime.of(recipe.train, device)
    return Member(runtime.place(model).eval(), Contract.from_dict(checkpoint.contract), runtime)
