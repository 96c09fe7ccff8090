"""Photos on disk, made on the spot, and what PIL decodes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from engine.kernels import jpeg
from engine.recipe.sections import DecodeSection

MakePhoto = Callable[..., str]
HOST = torch.device("cpu")


def smooth(height: int, width: int, seed: int = 0) -> Image.Image:
    """A picture without hard edges in chroma, where decoders rightly differ by more than rounding."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def by_pil(path: str) -> np.ndarray:
    """Upright RGB."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.fixture
def photo(tmp_path: Path) -> MakePhoto:
    """Write a picture of distinct content below tmp_path; the suffix chooses the format."""
    made = 0

    def make(name: str, height: int = 48, width: int = 64, mode: str = "RGB", orientation: int = 1, **options) -> str:
        nonlocal made
        made += 1
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / name
        if path.suffix == ".jpg":
            options = {"quality": 95, **options}
        smooth(height, width, seed=made).convert(mode).save(path, exif=exif, **options)
        return str(path)

    return make


@pytest.fixture
def damaged(tmp_path: Path, photo: MakePhoto) -> dict[str, str]:
    """One file of each kind that nothing can be made of, by kind."""
    whole = Path(photo("whole.jpg")).read_bytes()
    contents = {
        "text": b"no image at all\n" * 20,
        "empty": b"",
        "cut off": whole[: len(whole) // 2],
        "header only": whole[:60],
        "zeros": bytes(500),
    }
    paths = {"missing": str(tmp_path / "missing.jpg"), "gif": str(tmp_path / "gif.jpg")}
    smooth(20, 20).convert("P").save(paths["gif"], "GIF")
    for kind, content in contents.items():
        paths[kind] = str(tmp_path / f"{kind}.jpg")
        Path(paths[kind]).write_bytes(content)
    return paths


@pytest.fixture(params=["dali", "turbo"])
def section(request: pytest.FixtureRequest) -> DecodeSection:
    """Each decoder on the CPU in turn."""
    if request.param == "turbo" and not jpeg.available():
        pytest.skip(jpeg.why_not())
    return DecodeSection(device="cpu", decoder=request.param, threads=2)
