"""One model that answers, with the pixels and the precision that it is scored with: restored from a checkpoint, or
still in training. Whoever asks a model asks a member, so that validation cannot differ from what is shipped."""

from __future__ import annotations

import dataclasses
from typing import Self

import torch

from engine.augment.contract import Contract
from engine.errors import CheckpointError
from engine.model.build import Classifier, build_model
from engine.model.runtime import Runtime
from engine.recipe.load import parse_saved
from engine.store.checkpoint import Checkpoint
from engine.store.run_folder import CHECKPOINT
from engine.system import library_versions


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """A model and all that asking it takes; `classes` names its logits."""

    model: Classifier
    contract: Contract
    runtime: Runtime
    classes: tuple[str, ...]

    @classmethod
    def restored(cls, checkpoint: Checkpoint, device: torch.device) -> Self:
        """The checkpoint's model on `device`. Nothing is downloaded: all weights come from the checkpoint."""
        recipe = parse_saved(checkpoint.recipe, origin=CHECKPOINT)
        architecture = recipe.model.model_copy(update={"pretrained": False, "weights": ""})
        with torch.random.fork_rng([]):  # fresh weights are drawn, and replaced: nobody's numbers should be used up
            model = build_model(architecture, len(checkpoint.classes), recipe.stage[0].size)
        try:
            model.load_state_dict(dict(checkpoint.weights))
        except RuntimeError as error:
            there, here = (versions.get("timm", "unknown") for versions in (checkpoint.versions, library_versions()))
            raise CheckpointError(
                f"the weights are not those of {recipe.model.backbone} as timm {here} builds it "
                f"({' '.join(str(error).split())[:200]}...); they were trained with timm {there}: install that, "
                "copy the folder again, or train the fold again"
            ) from None
        runtime = Runtime.of_checkpoint(recipe.train, device)
        return cls(runtime.place(model), Contract.from_dict(checkpoint.contract), runtime, checkpoint.classes)
