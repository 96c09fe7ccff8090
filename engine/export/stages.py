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
from engine.export.proof import Between

if TYPE_CHECKING:
    from engine.export.graph import Answer

Values = dict[str, NDArray[Any]]
"""Of one photo, by name: probabilities (C,), prepared_k (3, h, w), logits_m (V, C)."""
ANSWER = "probabilities"


class Stages(Protocol):
    """A file's graph, one photo at a time."""

    between: Between

    def run(self, pixels_HW3: NDArray[np.uint8]) -> Values:
        """All that it makes of upright RGB pixels."""
        ...

    def rest(self, prepared: Mapping[str, NDArray[np.float32]]) -> Values:
        """What follows, of what networks are shown: logits and probabilities."""
        ...


class OnnxStages:
    """An ONNX file's. Raises CheckpointError where its graph lacks a tensor that it should have."""

    def __init__(self, path: Path, between: Between) -> None:
        import onnx

        self.between = between
        model = onnx.load(path)
        self._input = model.graph.input[0].name
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
        self._batch = batch.dim_value if batch.HasField("dim_value") else 1
        self._shown = [one.name for one in between.shown]
        self._logits = [one.logits for one in between.asked]
        there = {name for node in model.graph.node for name in node.output}
        if missing := [name for name in (ANSWER, *self._shown, *self._logits) if name not in there]:
            raise CheckpointError(f"{path}: its graph has no {', '.join(missing)}: it was changed after the export")
        self._whole = _session(_with_outputs(model, [ANSWER, *self._shown, *self._logits]))
        self._model = model
        self._rest: Any = None

    def run(self, pixels_HW3: NDArray[np.uint8]) -> Values:
        images = np.repeat(pixels_HW3[None], self._batch, 0)
        return self._first(self._whole, [ANSWER, *self._shown, *self._logits], {self._input: images})

    def rest(self, prepared: Mapping[str, NDArray[np.float32]]) -> Values:
        if self._rest is None:
            self._rest = _session(_from(self._model, self._shown, [ANSWER, *self._logits], self._batch))
        kinds = {each.name: _TYPES[each.type] for each in self._rest.get_inputs()}
        shown = {name: np.repeat(prepared[name][None], self._batch, 0).astype(kinds[name]) for name in kinds}
        return self._first(self._rest, [ANSWER, *self._logits], shown)

    def _first(self, session: Any, names: Sequence[str], inputs: Values) -> Values:
        """Of the first photo: logits are (V, B, C), all else has the photos first."""
        found = dict(zip(names, session.run(list(names), inputs), strict=True))
        return {name: value[:, 0] if name in self._logits else value[0] for name, value in found.items()}


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


def _from(model: Any, inputs: Sequence[str], outputs: Sequence[str], batch: int) -> Any:
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

        with torch.no_grad():
            found = self._answer.between(torch.from_numpy(np.array(pixels_HW3))[None])
        return {
            name: np.asarray(value[:, 0] if name.startswith("logits_") else value[0])
            for name, value in zip(self._answer.names, found, strict=True)
        }

    def rest(self, prepared: Mapping[str, NDArray[np.float32]]) -> Values:
        import torch

        given = {name: torch.from_numpy(np.ascontiguousarray(value))[None] for name, value in prepared.items()}
        with self._answer.photos.register_forward_hook(lambda *_: given):
            return self.run(np.zeros((8, 8, 3), np.uint8))


def stages_of(path: Path, about: Mapping[str, Any]) -> Stages:
    """Those of an exported file. Raises CheckpointError for one that cannot be taken apart."""
    between = Between.of(about)
    if path.suffix == ".onnx":
        return OnnxStages(path, between)
    raise CheckpointError(f"{path}: only .onnx files can be taken apart")
