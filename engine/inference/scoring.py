"""Images of a loader become predictions. Validation, specialists, out-of-fold predictions and `engine infer` all ask
their models here, so that what is scored is what is answered.

Where one view of one contract is wanted, the loader makes it, which decodes no more of each photo than the view shows.
For several, photos are decoded whole, once, and each view is a pass over them.

An answer depends on the photo alone, to the last bit: how many are asked about at a time, in which order, by how many
threads and ranks, and beside which files that cannot be read, makes no difference (parts.py; what comes after the
network goes row by row). It holds for one machine: another processor or card, or other versions of its libraries, add
up in another order.

A member's probabilities are the float32 softmax of its float32 logits; views are averaged in float64, and the mean is
float32 again. Float32 is what files hold: a member means the same to whoever comes next, read from a file or not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import EngineError
from engine.inference.members import Members, Output
from engine.loader.batches import Loader
from engine.order import eval_batches
from engine.predictions import Predictions
from engine.ranks import Ranks

Blend = Callable[[NDArray[np.floating]], NDArray[np.floating]]  # (V, B, C) -> (B, C)
Extra = Literal["logits", "features"]
Arrays = dict[str, NDArray[np.float32]]  # by the name of the field of Predictions
Tensors = dict[str, Tensor]  # the same, on the device
FETCH_EVERY = 16  # batches between fetches of answers: each makes the CPU wait for the GPU


class NotFinite(EngineError):
    """A model answers infinity, or no number at all."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Which images are asked about: `rows_N` of the loader's samples, `batch` of them at a time."""

    loader: Loader
    rows_N: NDArray[np.int64]
    batch: int


def mean(views_VBC: NDArray[np.floating]) -> NDArray[np.floating]:
    """The plainest way of making one answer of several views."""
    return views_VBC.mean(0, dtype=np.float64)


def score(
    members: Members,
    images: Images,
    ranks: Ranks,
    blend: Blend = mean,
    extras: Collection[Extra] = (),
    told: Callable[[int], None] = lambda count: None,
) -> list[Predictions]:
    """What each of the members answers, in order of the rows; all ranks take a share and get everything.

    Images that cannot be read are missing, and are in the loader's quarantine. `blend` makes one answer of the views;
    `extras` asks for logits and features as well, which are the mean over the views. `told` hears of every batch how
    many images it had. Raises NotFinite when a member's answer is no probability.
    """
    ids, arrays = _answers(members, images, ranks, blend, extras, told)
    return [Predictions(ids, member.classes, **own) for member, own in zip(members, arrays, strict=True)]


def score_each(
    members: Members, images: Images, ranks: Ranks, told: Callable[[int], None] = lambda count: None
) -> list[list[Predictions]]:
    """The same, of each view by itself: for each member, what it answers when it is shown that view alone.

    Photos are decoded once for all views.
    """
    views = len(members.views)
    ids, arrays = _answers(members, images, ranks, lambda views_VBC: views_VBC.swapaxes(0, 1), (), told)
    found = []
    for member, own in zip(members, arrays, strict=True):
        each_NVC = own["probabilities_NC"].reshape(len(ids), views, len(member.classes))
        found.append([Predictions(ids, member.classes, each_NVC[:, view].copy()) for view in range(views)])
    return found


def _answers(
    members: Members,
    images: Images,
    ranks: Ranks,
    blend: Blend,
    extras: Collection[Extra],
    told: Callable[[int], None],
) -> tuple[tuple[str, ...], list[Arrays]]:
    """The ids of the images that could be read, and what each of the members answers about them, in that order."""
    batches = eval_batches(images.rows_N, images.batch, ranks.rank, ranks.world)
    rows: list[NDArray[np.int64]] = []
    answers: list[list[Arrays]] = [[] for _ in members]
    waiting: list[list[Tensors]] = []  # of batches, what is still on the device

    def fetch() -> None:
        for own, found in zip(answers, zip(*waiting, strict=True), strict=True):
            own.extend(_arrays(each, blend) for each in found)
        waiting.clear()

    running = _outputs(members, images.loader, batches, "features" in extras)
    with closing(running), members.weights_cast_once():
        for rows_B, outputs in running:
            rows.append(rows_B)
            waiting.append([_asked_for(output, extras) for output in outputs])
            if len(waiting) == FETCH_EVERY:
                fetch()
            told(len(rows_B))
        if waiting:
            fetch()
    piece = (np.concatenate(rows), [_joined(own) for own in answers]) if rows else None
    pieces = [piece for piece in ranks.gather(piece) if piece is not None]
    if not pieces:
        return (), [{"probabilities_NC": np.zeros((0, len(member.classes)), np.float32)} for member in members]
    rows_N = np.concatenate([rows for rows, _ in pieces])
    order_N = np.argsort(rows_N)
    ids = tuple(images.loader.samples.ids[row] for row in rows_N[order_N].tolist())
    found = []
    for index in range(len(members)):
        arrays = _joined([members[index] for _, members in pieces])
        if not np.isfinite(arrays["probabilities_NC"]).all():
            raise NotFinite("a model's answer is no number: its weights are broken; train the fold again")
        found.append({name: array[order_N] for name, array in arrays.items()})
    return ids, found


def _outputs(
    members: Members, loader: Loader, batches: Sequence[NDArray[np.int64]], features: bool
) -> Generator[tuple[NDArray[np.int64], list[Output]], None, None]:
    """Batch by batch the rows that could be read, and what the members make of them."""
    contract = members.contract
    if contract is not None and len(members.views) == 1:
        with closing(loader.valid(batches, contract, members.views[0])) as seen:
            for batch in seen:
                yield batch.rows_B, members.outputs_of_pixels(batch.images_BCHW, features)
    else:
        with closing(loader.photos(batches)) as decoded:
            for photos in decoded:
                yield photos.rows_B, members.outputs(photos.images, features)


def _asked_for(output: Output, extras: Collection[Extra]) -> Tensors:
    """What is to be fetched of a member's answer to a batch: probabilities of views, (V, B, C), the rest (B, ...)."""
    tensors = {"probabilities_NC": output.logits_VBC.softmax(dim=2)}
    if "logits" in extras:
        tensors["logits_NC"] = output.logits_VBC.mean(0)
    if "features" in extras:
        assert output.features_VBE is not None  # they were asked for
        tensors["features_NE"] = output.features_VBE.mean(0)
    return tensors


def _arrays(tensors: Tensors, blend: Blend) -> Arrays:
    """The same on the host, with one answer made of the views."""
    arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    views_VBC = arrays["probabilities_NC"]
    return arrays | {"probabilities_NC": views_VBC[0] if len(views_VBC) == 1 else blend(views_VBC).astype(np.float32)}


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
