"""A graph for TensorRT, and the engine built of it.

TensorRT 11 takes types from the graph alone: there are no builder flags for precision and no calibrators any more. So
the graph says its types itself: backbones in half, or in whole numbers with their scales (Q/DQ), all else in float32.
TensorRT knows no float64, in which sizes are computed and answers are joined elsewhere; here both are float32, which
moves a probability by some 1e-6.

An engine is built for the card that it is built on, and only where there is one.
"""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

_SIDES = (32, 640, 4096)  # of photos: smallest, usual and largest that the engine is to take
_BATCHES = (1, 8, 32)  # where the file takes any number


def without_doubles(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with float32 in place of every float64."""
    import onnx
    from onnx import TensorProto, numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    least = float(np.finfo(np.float32).tiny)

    def single(tensor: Any) -> None:
        values = numpy_helper.to_array(tensor)
        small = (values != 0) & (np.abs(values) < least)  # what stands for next to nothing stays above it
        values = np.where(small, np.sign(values) * least, values).astype(np.float32)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), name))

    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            single(tensor)
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.DOUBLE:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.DOUBLE:
                single(attribute.t)
    for each in made.graph.value_info:
        if each.type.tensor_type.elem_type == TensorProto.DOUBLE:
            each.type.tensor_type.elem_type = TensorProto.FLOAT
    return made


def command(path: Path, batch: int | None) -> str:
    """What builds the engine with NVIDIA's own program."""
    shapes = {
        name: f"images:{count}x{side}x{side}x3"
        for name, count, side in zip(("min", "opt", "max"), _batches(batch), _SIDES, strict=True)
    }
    options = " ".join(f"--{name}Shapes={shape}" for name, shape in shapes.items())
    engine = shlex.quote(str(path.with_suffix(".engine")))
    return f"trtexec --onnx={shlex.quote(str(path))} --saveEngine={engine} {options}"


def build(path: Path, batch: int | None) -> str:
    """Build the engine beside the ONNX file, as .engine; returns "" when it was, else why not, in words."""
    import torch

    if not torch.cuda.is_available():
        return "there is no GPU here, and an engine is built on the card that runs it"
    if find_spec("tensorrt") is None:
        return "the package tensorrt is not installed (pip install tensorrt)"
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)  # strongly typed: since TensorRT 11 the only kind
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        return f"TensorRT {tensorrt.__version__} does not take the graph ({parser.get_error(0)})"
    profile = builder.create_optimization_profile()
    profile.set_shape("images", *((count, side, side, 3) for count, side in zip(_batches(batch), _SIDES, strict=True)))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    made = builder.build_serialized_network(network, config)
    if made is None:
        return f"TensorRT {tensorrt.__version__} could not build the graph; its reasons stand above"
    path.with_suffix(".engine").write_bytes(bytes(made))
    return ""


def _batches(batch: int | None) -> tuple[int, ...]:
    return (batch,) * 3 if batch else _BATCHES
