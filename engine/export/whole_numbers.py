"""Networks in whole numbers: weights and activations of their convolutions and products as 8 bits, by onnxruntime's
static quantisation, with Q/DQ pairs that any runtime reads.

Per channel, since one scale for a depthwise convolution's channels leaves most of them nothing. Norms, what follows the
features (pooling's end and the head), and all that is not a network stay in float32. How large activations get is
measured on photos of the run's own training data, as the graph prepares them. Weights take 7 bits of the 8: processors
without VNNI add two products in 16 bits, which overflows otherwise, and a file should answer alike everywhere.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.export.graph import Answer, Asks

if TYPE_CHECKING:
    import onnx

_OPERATORS = ("Conv", "Gemm", "MatMul")


class Quantised:
    """A `stitch.Change`: each network's piece in whole numbers, measured on `photos`, upright RGB pixels (H, W, 3).
    batch: of how many photos the pieces are, None for any number."""

    def __init__(self, answer: Answer, photos: Sequence[NDArray[np.uint8]], batch: int | None = None) -> None:
        self._shown: list[Mapping[str, NDArray[np.float32]]] = []
        with torch.no_grad():
            for photo in photos:
                pixels = answer.photos(torch.from_numpy(np.ascontiguousarray(photo))[None])
                self._shown.append({name: np.repeat(each.numpy(), batch or 1, 0) for name, each in pixels.items()})

    def __call__(self, piece: onnx.ModelProto, asks: Asks) -> onnx.ModelProto:
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        names = [each.name for each in piece.graph.input]
        with tempfile.TemporaryDirectory() as folder:
            plain, folded, done = (Path(folder) / name for name in ("plain.onnx", "folded.onnx", "done.onnx"))
            onnx.save(piece, plain)
            level = logging.root.level
            logging.root.setLevel(logging.ERROR)  # onnxruntime says on the root logger that it was not preprocessed
            try:
                quant_pre_process(str(plain), str(folded), skip_symbolic_shape=True)
                model = onnx.load(folded)
                quantize_static(
                    str(folded),
                    str(done),
                    _Reader(
                        [{own: each[name] for own, name in zip(names, asks.shown, strict=True)} for each in self._shown]
                    ),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=[*_OPERATORS],
                    nodes_to_exclude=_after_features(model),
                    per_channel=True,
                    reduce_range=True,
                    weight_type=QuantType.QInt8,
                    activation_type=QuantType.QUInt8,
                )
            finally:
                logging.root.setLevel(level)
            return onnx.load(done)


class _Reader:
    """Inputs one after the other, as onnxruntime wants them."""

    def __init__(self, inputs: Sequence[dict[str, NDArray[np.float32]]]) -> None:
        self._inputs = inputs
        self._rest = iter(inputs)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._rest, None)

    def rewind(self) -> None:
        self._rest = iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._rest = iter(self._inputs[start_index:end_index])


def _after_features(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that logits need and features do not: the head's."""
    logits, features = (_needed(model.graph, each.name) for each in model.graph.output)
    return sorted(logits - features)


def _needed(graph: Any, name: str) -> set[str]:
    maker = {output: node for node in graph.node for output in node.output}
    found: set[str] = set()
    waiting = [name]
    while waiting:
        node = maker.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting.extend(node.input)
    return found
