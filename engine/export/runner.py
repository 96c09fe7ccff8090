"""Opens an exported file and answers with it, as whoever puts it to work would: by onnxruntime or torch alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import CheckpointError, DataError
from engine.export.about import ABOUT, PROOF, read
from engine.export.from_bytes import DOMAIN

Pixels = NDArray[np.uint8]
Ask = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
_AT_ONCE, _PIXELS = 16, 1 << 24
"""Photos of one size, and their pixels, that are asked about together, where the file leaves that open."""


@dataclasses.dataclass(frozen=True, eq=False)
class Exported:
    """An exported file, ready to answer. `about` is what it says of itself (see engine/export/about.py), `proof` the
    JSON of the photos and answers it carries, "" for none. `ask` takes uint8 (B, H, W, 3); of a file that takes bytes,
    the content of one JPEG or PNG, uint8 (N,)."""

    path: Path
    about: dict[str, Any]
    proof: str
    ask: Ask

    @classmethod
    def open(cls, path: Path | str, threads: int | None = None) -> Self:
        """`threads`: that the runtime may use; None leaves it to the runtime. Raises CheckpointError when the file is
        missing, damaged, or no export of this engine."""
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; make one with engine export RUN --to onnx")
        if path.suffix not in _OPENERS:
            raise CheckpointError(f"{path}: expected a file of {' or '.join(_OPENERS)}, as engine export makes it")
        said, ask = _OPENERS[path.suffix](path, threads)
        if not said.get(ABOUT):
            raise CheckpointError(f"{path} does not say what it answers: it was not made by engine export")
        return cls(path, read(said[ABOUT], path), said.get(PROOF, ""), ask)

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the columns of its answers."""
        return tuple(self.about["classes"])

    @property
    def batch(self) -> int | None:
        """How many photos it takes at a time; None: any number."""
        return self.about["batch"]

    def probabilities(self, photos: Sequence[Pixels]) -> NDArray[np.float32]:
        """The answers, (N, C), about upright RGB photos, uint8 (H, W, 3) of any sizes.

        Raises ValueError for an array that is none, DataError for a file that takes bytes.
        """
        if self.about["takes"] != "pixels":
            raise DataError(f"{self.path} takes the bytes of a photo: use `of_bytes`, or the file that takes pixels")
        for photo in photos:
            if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
                raise ValueError(f"expected RGB pixels, uint8 (height, width, 3), got {photo.dtype} {photo.shape}")
        answers_NC = np.zeros((len(photos), len(self.classes)), np.float32)
        of_size: dict[tuple[int, ...], list[int]] = {}
        for row, photo in enumerate(photos):
            of_size.setdefault(photo.shape, []).append(row)
        for (height, width, _), rows in of_size.items():
            at_once = self.batch or max(1, min(_AT_ONCE, _PIXELS // (height * width)))
            for start in range(0, len(rows), at_once):
                some = rows[start : start + at_once]
                images = [photos[row] for row in some]
                images += images[-1:] * ((self.batch or len(some)) - len(some))
                answers_NC[some] = self.ask(np.stack(images))[: len(some)]
        return answers_NC

    def of_bytes(self, contents: Sequence[bytes]) -> NDArray[np.float32]:
        """The answers, (N, C), about photos as the content of their files; only of a file that takes bytes."""
        if self.about["takes"] != "bytes":
            raise DataError(f"{self.path} takes pixels: use `probabilities`, or export it with --bytes")
        answers = [self.ask(np.frombuffer(content, np.uint8)) for content in contents]
        return np.concatenate([np.zeros((0, len(self.classes)), np.float32), *answers])


def _open_onnx(path: Path, threads: int | None) -> tuple[dict[str, str], Ask]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        from onnxruntime_extensions import get_library_path

        options.register_custom_ops_library(get_library_path())
    except ImportError:
        pass  # only a file that takes bytes asks for it
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes of errors share no other base
        if DOMAIN in str(error):
            told = f"{path} decodes photos by onnxruntime-extensions: pip install onnxruntime-extensions"
            raise CheckpointError(told) from error
        raise CheckpointError(f"{path} cannot be run here ({_reason(error)})") from error
    name = session.get_inputs()[0].name

    def ask(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            return np.asarray(session.run(["probabilities"], {name: images})[0])
        except Exception as error:
            raise CheckpointError(f"{path} gives no answer here ({_reason(error)})") from error

    return dict(session.get_modelmeta().custom_metadata_map), ask


def _open_torch(path: Path, threads: int | None) -> tuple[dict[str, str], Ask]:
    import torch

    extra = {ABOUT: "", PROOF: ""}
    try:
        module = torch.export.load(path, extra_files=extra).module()
    except Exception as error:  # whatever a zip file or a graph of another version raises
        raise CheckpointError(f"{path} cannot be read ({_reason(error)})") from error
    if threads is not None:
        torch.set_num_threads(threads)

    def ask(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(np.ascontiguousarray(images))))

    return {name: _text(content) for name, content in extra.items()}, ask


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _text(content: str | bytes) -> str:
    return content.decode() if isinstance(content, bytes) else content


_OPENERS = {".onnx": _open_onnx, ".pt2": _open_torch}
