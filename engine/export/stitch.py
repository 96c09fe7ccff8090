"""The graph as ONNX: exported in three pieces, which are stitched together by the names of what they hand on.

torch.onnx.export takes a quarter of a minute for a network, and a run has ten of the same architecture. So each
architecture is exported once, and for every further model its weights are put in the place of the first one's. All at
once takes minutes, and its pieces could not be told apart afterwards: which weights may be halved or made whole
numbers, and where photos are still pixels.

Tensors that are handed on keep their names (`prepared_0`, `logits_3`): whoever looks for where an answer went wrong
asks for them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.export.graph import Answer, Asks, Views

if TYPE_CHECKING:
    import onnx

OPSET = 21
INPUT, OUTPUT = "images", "probabilities"

_EXAMPLE = (2, 50, 70)  # photos, and their height and width, that the graph is traced with; no two alike
_GIVEN, _LOGITS, _FEATURES = "engine:view:{}", "engine:logits", "engine:features"  # as no exporter calls a tensor
_MOST = 1 << 40  # no limit, said as torch.export wants it

Change = Callable[["onnx.ModelProto", Asks], "onnx.ModelProto"]
"""What is to become of a network's piece before it is stitched in."""


def as_it_is(piece: onnx.ModelProto, _: Asks) -> onnx.ModelProto:
    return piece


def to_onnx(answer: Answer, batch: int | None = None, change: Change = as_it_is) -> onnx.ModelProto:
    """The graph: uint8 `images` (B, H, W, 3) to `probabilities` (B, C). batch: so many photos; None: any number."""
    photos, *_ = _EXAMPLE
    shown = [one.name for one in answer.shown]
    pieces = [_exported(_Photos(answer), (example(batch),), (sizes(batch),), [INPUT], shown)]
    pixels = {one.name: torch.zeros(batch or photos, 3, *one.size) for one in answer.shown}
    said: list[tuple[Tensor, Tensor]] = []
    made: dict[Any, onnx.ModelProto] = {}
    for number, (asks, views) in enumerate(zip(answer.asks, answer.networks, strict=True)):
        assert isinstance(views, Views)
        given = tuple(pixels[name] for name in asks.shown)
        key = (str(views), tuple(each.shape for each in given))
        if key not in made:
            own = [_GIVEN.format(k) for k in range(len(given))]
            free = tuple(_free(batch) for _ in given)
            made[key] = _exported(_Star(views), (given,), (free,), own, [_LOGITS, _FEATURES], optimize=False)
        said.append(_zeros_like_its_outputs(made[key], len(given), batch or photos))
        piece = change(_with_weights(made[key], _Star(views)), asks)
        names = {_GIVEN.format(k): name for k, name in enumerate(asks.shown)}
        pieces.append(_renamed(piece, f"{number}/", names | {_LOGITS: asks.logits, _FEATURES: f"features_{number}"}))
    logits, features = zip(*said, strict=True)
    free_logits = tuple({1: each[0]} if (each := _free(batch)) else None for _ in logits)
    free_features = tuple(_free(batch) for _ in features)
    given_names = [*(asks.logits for asks in answer.asks), *(f"features_{k}" for k in range(len(features)))]
    rest = _exported(_Rest(answer), (logits, features), (free_logits, free_features), given_names, [OUTPUT])
    return _stitched([_renamed(pieces[0], "photos/", {}), *pieces[1:], _renamed(rest, "together/", {})])


def _zeros_like_its_outputs(piece: onnx.ModelProto, views: int, photos: int) -> tuple[Tensor, Tensor]:
    """Logits (V, B, C) and features (B, E) as the piece of a network gives them."""
    logits, features = (each.type.tensor_type.shape.dim[-1].dim_value for each in piece.graph.output)
    return torch.zeros(views, photos, logits), torch.zeros(photos, features)


def example(batch: int | None) -> Tensor:
    """Photos that a graph is traced with."""
    photos, height, width = _EXAMPLE
    return torch.zeros(batch or photos, height, width, 3, dtype=torch.uint8)


def sizes(batch: int | None) -> dict[int, Any]:
    """Which of its axes may have any length."""
    sides = {axis: torch.export.Dim(name, min=1, max=_MOST) for axis, name in ((1, "height"), (2, "width"))}
    return (_free(batch) or {}) | sides


def _free(batch: int | None) -> dict[int, Any] | None:
    return None if batch else {0: torch.export.Dim("batch", min=1, max=_MOST)}


class _Photos(nn.Module):
    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.photos = answer.photos

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.photos(images).values())


class _Star(nn.Module):
    """Views as one argument, for sizes are said by argument."""

    def __init__(self, views: Views) -> None:
        super().__init__()
        self.views = views

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        logits, features = self.views(*views)
        return logits, features


class _Rest(nn.Module):
    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.together = answer.together

    def forward(self, logits: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
        answer_BC: Tensor = self.together(logits, features)
        return answer_BC


def _exported(
    module: nn.Module,
    inputs: tuple[Any, ...],
    dynamic: tuple[Any, ...],
    names: Sequence[str],
    outputs: Sequence[str],
    optimize: bool = True,
) -> onnx.ModelProto:
    with quietly():
        program = torch.onnx.export(
            module.eval(),
            inputs,
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=[*names],
            output_names=[*outputs],
            opset_version=OPSET,
            optimize=optimize,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _with_weights(piece: onnx.ModelProto, module: nn.Module) -> onnx.ModelProto:
    """The same graph with another module's weights, which are called alike."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(piece)
    weights = module.state_dict()
    for tensor in made.graph.initializer:
        if tensor.name in weights:
            own = weights[tensor.name].detach().contiguous()
            tensor.raw_data = own.flatten().view(torch.uint8).numpy().tobytes()
    return made


def _renamed(piece: onnx.ModelProto, prefix: str, names: Mapping[str, str]) -> onnx.ModelProto:
    """The same graph, all of whose own names begin with `prefix`; what it is given and gives out are called as they
    are, or as `names` says."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(piece)
    graph = made.graph
    kept = {each.name: names.get(each.name, each.name) for each in (*graph.input, *graph.output)}

    def name(old: str) -> str:
        return kept.get(old, f"{prefix}{old}") if old else ""

    _rename(graph, name, prefix)
    for each in (*graph.input, *graph.output):
        each.name = kept[each.name]
    return made


def _rename(graph: onnx.GraphProto, name: Callable[[str], str], prefix: str) -> None:
    for number, node in enumerate(graph.node):
        node.name = f"{prefix}{node.name or number}"
        del node.metadata_props[:]  # where it was made: paths of this machine
        node.input[:] = [name(each) for each in node.input]
        node.output[:] = [name(each) for each in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, name, prefix)
    for each in (*graph.initializer, *graph.value_info):
        each.name = name(each.name)


def _stitched(pieces: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """One graph of pieces of which each takes what those before it give out."""
    import onnx

    whole = onnx.ModelProto()
    whole.CopyFrom(pieces[0])
    del whole.graph.output[:]
    versions = {each.domain: each.version for each in whole.opset_import}
    for piece in pieces[1:]:
        whole.graph.node.extend(piece.graph.node)
        whole.graph.initializer.extend(piece.graph.initializer)
        whole.graph.value_info.extend(piece.graph.value_info)
        whole.graph.value_info.extend(piece.graph.input)
        for each in piece.opset_import:
            versions.setdefault(each.domain, each.version)
    whole.graph.output.extend(pieces[-1].graph.output)
    whole.graph.name = "engine"
    del whole.opset_import[:]
    whole.opset_import.extend(onnx.helper.make_opsetid(*each) for each in versions.items())
    infos = [*{each.name: each for each in whole.graph.value_info}.values()]
    del whole.graph.value_info[:]
    whole.graph.value_info.extend(infos)
    return whole


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what exporters say to their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
