"""An exported file taken apart: what its graph makes of a photo on the way, and what the rest of it answers to other
values in that place.

So a difference can be put where it first shows, and a deployment that prepares photos in its own way can be imitated
with the very networks of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import CheckpointError
from engine.export.from_bytes import taking_pixels
from engine.export.proof import Between

if TYPE_CHECKING:
    from torch import Tensor

    from engine.export.graph import Answer

Values = dict[str, NDArray[Any]]
"""Of one photo, by name: probabilities (C,), prepared_k (3, h, w), logits_m (V, C)."""
Prepared = Mapping[str, NDArray[np.float32]]
"""Of one photo, by name: prepared_k (3, h, w)."""
ANSWER = "probabilities"


class Stages(Protocol):
    """A file's graph."""

    between: Between

    def run(self, pixels_HW3: NDArray[np.uint8]) -> Values:
        """All that it makes of upright RGB pixels."""
        ...

    def rest(self, prepared: Sequence[Prepared]) -> list[Values]:
        """What follows, of what networks are shown of some photos: logits and probabilities."""
        ...


class OnnxStages:
    """An ONNX file's, from pixels on, also where it takes bytes. Raises CheckpointError where its graph lacks a tensor
    that it should have."""

    def __init__(self, path: Path, between: Between) -> None:
        import onnx

        self.between = between
        model = taking_pixels(onnx.load(path))
        self._input = model.graph.input[0].name
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
        self._batch = batch.dim_value if batch.HasField("dim_value") else 0
        self._shown = [one.name for one in between.shown]
        self._logits = [one.logits for one in between.asked]
        there = {name for node in model.graph.node for name in node.output}
        if missing := [name for name in (ANSWER, *self._shown, *self._logits) if name not in there]:
            raise CheckpointError(f"{path}: its graph has no {', '.join(missing)}: it was changed after the export")
        self._whole = _session(_with_outputs(model, [ANSWER, *self._shown, *self._logits]))
        self._model = model
        self._rest: Any = None

    def run(self, pixels_HW3: NDArray[np.uint8]) -> Values:
        images = np.repeat(pixels_HW3[None], self._batch or 1, 0)
        return self._each(self._whole, [ANSWER, *self._shown, *self._logits], {self._input: images}, 1)[0]

    def rest(self, prepared: Sequence[Prepared]) -> list[Values]:
        if self._rest is None:
            self._rest = _session(_from(self._model, self._shown, [ANSWER, *self._logits]))
        kinds = {each.name: _TYPES[each.type] for each in self._rest.get_inputs()}
        found: list[Values] = []
        at_once = self._batch or len(prepared)
        for start in range(0, len(prepared), at_once):
            some = [*prepared[start : start + at_once]]
            filled = some + some[-1:] * (at_once - len(some))
            shown = {name: np.stack([one[name] for one in filled]).astype(kinds[name]) for name in kinds}
            found += self._each(self._rest, [ANSWER, *self._logits], shown, len(some))
        return found

    def _each(self, session: Any, names: Sequence[str], inputs: Values, photos: int) -> list[Values]:
        """Of the first photos: logits are (V, B, C), all else has the photos first."""
        found = dict(zip(names, session.run(list(names), inputs), strict=True))
        return [
            {name: value[:, place] if name in self._logits else value[place] for name, value in found.items()}
            for place in range(photos)
        ]


_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def _session(model: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # A graph that is told to keep more tensors fuses less; as it stands, it is also what other runtimes are given.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _with_outputs(model: Any, names: Sequence[str]) -> Any:
    """The same graph, which gives out these tensors."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.metadata_props[:]
    del made.graph.output[:]
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return made


def _from(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """The part of a graph from some of its tensors on: nodes of which an output needs one, and no more."""
    import onnx

    made = _with_outputs(model, outputs)
    wanted, kept = set(outputs), []
    for node in reversed(model.graph.node):
        if wanted.isdisjoint(node.output) or any(name in inputs for name in node.output):
            continue
        kept.append(node)
        wanted.update(node.input)
        wanted.update(name for attribute in node.attribute for name in _outer_names(attribute))
    del made.graph.node[:]
    made.graph.node.extend(reversed(kept))
    del made.graph.input[:]
    types = {each.name: each.type for each in (*model.graph.value_info, *model.graph.output)}
    for name in inputs:
        if name in wanted:
            own = types[name].tensor_type.elem_type if name in types else onnx.TensorProto.FLOAT
            made.graph.input.append(onnx.helper.make_tensor_value_info(name, own, None))
    if any(name == model.graph.input[0].name for name in wanted):  # sizes of the batch may be read off the photos
        made.graph.input.append(model.graph.input[0])
    return made


def _outer_names(attribute: Any) -> set[str]:
    """Names that subgraphs of an attribute take from outside."""
    graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
    return {name for graph in graphs for node in graph.node for name in node.input}


class ModuleStages:
    """A torch module's, before it is a file."""

    def __init__(self, answer: Answer, between: Between) -> None:
        self.between = between
        self._answer = answer.eval()

    def run(self, pixels_HW3: NDArray[np.uint8]) -> Values:
        import torch

        return self._each(torch.from_numpy(np.array(pixels_HW3))[None])[0]

    def rest(self, prepared: Sequence[Prepared]) -> list[Values]:
        import torch

        given = {
            one.name: torch.from_numpy(np.stack([each[one.name] for each in prepared])) for one in self.between.shown
        }
        with self._answer.photos.register_forward_hook(lambda *_: given):
            return self._each(torch.zeros(len(prepared), 8, 8, 3, dtype=torch.uint8))

    def _each(self, images_BHW3: Tensor) -> list[Values]:
        import torch

        with torch.no_grad():
            found = [*zip(self._answer.names, self._answer.between(images_BHW3), strict=True)]
        return [
            {name: np.asarray(value[:, place] if name.startswith("logits_") else value[place]) for name, value in found}
            for place in range(len(images_BHW3))
        ]


def stages_of(path: Path, about: Mapping[str, Any]) -> Stages:
    """Those of an exported file. Raises CheckpointError for one that cannot be taken apart."""
    between = Between.of(about, path)
    if path.suffix == ".onnx":
        return OnnxStages(path, between)
    raise CheckpointError(f"{path}: only .onnx files can be taken apart")
