"""A fold's bank, filled once the fold is trained: its models look again at the images that they were trained on, one
plain view of each, as they are scored and not as they were augmented.

That costs about as much as an epoch's forward half. Features gathered while training would cost nothing and belong to
weights that are no more.
"""

from __future__ import annotations

import numpy as np

from engine.augment.views import PLAIN
from engine.ensemble.neighbours import embedding
from engine.errors import EngineError, Interrupted
from engine.events import BankFilled, Stop, Watcher
from engine.inference.ask import ask
from engine.inference.members import Members
from engine.inference.scoring import Extra, mean
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.store.bank import Bank, made_by, makers
from engine.store.run_folder import FoldFolder
from engine.training.feed import FoldData

_FEATURES: tuple[Extra, ...] = ("features",)
_GOES_ON = "the same command goes on from here"


def write_bank(
    recipe: Recipe, fold: int, data: FoldData, folder: FoldFolder, ranks: Ranks, watcher: Watcher, stop: Stop
) -> None:
    """Fill the bank in `folder` with what its models make of the images that `data` trains on, on all ranks together,
    unless these models have. Images that cannot be read are not in it.

    `stop` is asked after every batch; of several ranks, which have not as many batches each, at the end. Raises
    EngineError when none of the images can be read, Interrupted.
    """
    # The leading rank looks: it wrote what there is, and the others must not look before it has.
    if not ranks.any(ranks.leads and made_by(folder.bank) != makers(folder)):
        return
    images = len(data.train_rows_N)

    def told(done: int) -> None:
        watcher.hear(BankFilled(fold, min(done * ranks.world, images), images))
        if done < images and ranks.world == 1 and stop():
            raise Interrupted(f"stopped while fold {fold} filled its bank; {_GOES_ON}")

    checkpoints = [checkpoint.load(member.path) for member in folder.members()]
    models = Members.restored(checkpoints, ranks.device, (PLAIN,), recipe.augment.executor)
    rows_N = np.sort(data.train_rows_N)
    found, quarantine = ask(models, data.samples, rows_N, recipe, mean, ranks, told, extras=_FEATURES)
    if not len(found[0]):
        raise EngineError(f"fold {fold}: none of its {images} training images could be read: {quarantine.some(1)}")
    if ranks.leads:
        label_of = {data.ids[row]: data.samples.labels_N[row] for row in rows_N.tolist()}
        labels_B = np.array([label_of[id_] for id_ in found[0].ids], dtype=np.int64)
        bank = Bank(found[0].ids, tuple(data.classes), labels_B, embedding(found), makers(folder))
        bank.save(folder.bank)
    if ranks.any(stop()):
        raise Interrupted(f"stopped after fold {fold} filled its bank; {_GOES_ON}")
