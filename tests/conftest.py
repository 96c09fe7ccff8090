"""Shared test settings: GPU tests skip without a GPU, and one process never fights another for the cores.

And what tests of several rooms need: pictures, photos on disk with what PIL decodes of them, fold models that were
never trained but answer decidedly, a run that was trained, with all that can be fitted of it, and a real browser.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from engine.augment.contract import Contract
from engine.kernels import Ragged, jpeg
from engine.model.build import build_model
from engine.recipe.load import parse_recipe
from engine.recipe.sections import DecodeSection
from engine.store.checkpoint import Checkpoint

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Machines are shared and noisy: how long an example takes says nothing about the code.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):  # and not a folder of that name above the tests
            item.add_marker(skip)


def smooth_picture(height: int, width: int, seed: int) -> Tensor:
    """uint8 (height, width, 3): a random low-frequency picture with a few hard-edged rectangles and slight noise."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 5, generator=random)
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
    for _ in range(4):
        y, x = (int(torch.randint(0, max(n - n // 4, 1), (1,), generator=random)) for n in (height, width))
        image[:, y : y + max(height // 4, 1), x : x + max(width // 4, 1)] = torch.rand(3, 1, 1, generator=random)
    image = image + 0.02 * torch.randn(3, height, width, generator=random)
    return (image.clamp(0, 1) * 255).byte().permute(1, 2, 0).contiguous()


@pytest.fixture(scope="session")
def pictures() -> Ragged:
    """Six images of different sizes and aspects."""
    sizes = [(80, 60), (60, 90), (64, 64), (100, 50), (45, 120), (70, 71)]
    return Ragged([smooth_picture(h, w, i) for i, (h, w) in enumerate(sizes)])


CLASSES = ("가방", "모자", "신발")


def draw(number: int, height: int = 40, width: int = 56) -> np.ndarray:
    """A uint8 RGB picture, another for each number, without any symmetry."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def make_fold(
    seed: int,
    classes: Sequence[str] = CLASSES,
    size: int = 32,
    counts: Sequence[int] = (6, 3, 1),
    data: str = "",
    precision: str = "auto",
) -> Checkpoint:
    """A fold model with random weights; the head is loud, so that answers differ between images."""
    recipe = parse_recipe(
        {
            "train": {"precision": precision},
            "model": {"backbone": "test_convnext", "pretrained": True, "weights": "long/gone.safetensors"},
            "stage": [{"size": size, "batch": 4, "epochs": 1, "lr": 1e-3}],
            "data": {"test": data},
        }
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        architecture = recipe.model.model_copy(update={"pretrained": False, "weights": ""})
        model = build_model(architecture, len(classes), (size, size))
        torch.nn.init.normal_(model.head.linear.weight, std=1.0)
    contract = Contract.of(recipe.augment, (size, size), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bicubic")
    return Checkpoint(
        weights=model.state_dict(),
        recipe=recipe.model_dump(mode="json"),
        contract=contract.to_dict(),
        classes=tuple(classes),
        class_counts=tuple(counts),
        data_fingerprint="",
        metrics={"log_loss": 1.0},
    )


FoldMaker = Callable[..., Checkpoint]


@pytest.fixture
def fold() -> FoldMaker:
    """`make_fold`, for tests that need a model of their own."""
    return make_fold


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """`draw`."""
    return draw


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


def assert_as_pil(pixels_HW3: np.ndarray, path: str, mean: float = 0.7) -> None:
    """Decoded pixels are those of the file, but for rounding."""
    expected_HW3 = by_pil(path)
    assert pixels_HW3.shape == expected_HW3.shape
    difference = np.abs(pixels_HW3.astype(int) - expected_HW3)
    assert difference.mean() < mean and difference.max() <= 16


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
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400),
    }
    paths = {"missing": str(tmp_path / "missing.jpg")}
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


@pytest.fixture
def scene() -> Callable[..., Image.Image]:
    """A picture with large and small shapes, another for each number, that survives being saved as a JPEG."""

    def make(number: int, height: int = 120, width: int = 160) -> Image.Image:
        random = np.random.default_rng(number)
        layers = [
            Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            for side in (3, 7, 16)
        ]
        mixed = np.mean([np.asarray(layer, dtype=np.float32) for layer in layers], axis=0)
        return Image.fromarray(mixed.astype(np.uint8))

    return make


SIGNS = {"고리": (220, 40, 40), "네모": (40, 200, 60), "cross": (50, 60, 220), "bar": (200, 180, 40)}
"""Kinds of drawn signs, and the colour that most of each kind have."""


def draw_sign(kind: int, number: int) -> Image.Image:
    """A photo of a sign, of its own size; one in six has the colour of another kind, which is hard to tell."""
    random = np.random.default_rng((kind, number))
    height, width = random.integers(40, 120, 2).tolist()
    image = Image.new("RGB", (width, height), tuple(random.integers(60, 200, 3).tolist()))
    pen = ImageDraw.Draw(image)
    colors = [*SIGNS.values()]
    color = np.array(colors[kind if number % 6 else (kind + 1) % len(colors)]) + random.integers(-50, 50, 3)
    fill = tuple(np.clip(color, 0, 255).tolist())
    x, y = int(width * random.uniform(0.05, 0.35)), int(height * random.uniform(0.05, 0.35))
    w, h = width // 2, height // 2
    match kind:
        case 0:
            pen.ellipse([x, y, x + w, y + h], outline=fill, width=max(3, w // 4))
        case 1:
            pen.rectangle([x, y, x + w, y + h], fill=fill)
        case 2:
            pen.line([x, y, x + w, y + h], fill=fill, width=max(3, w // 5))
            pen.line([x, y + h, x + w, y], fill=fill, width=max(3, w // 5))
        case _:
            pen.rectangle([x, y + h // 3, x + w, y + 2 * h // 3], fill=fill)
    return image


@pytest.fixture(scope="session")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ with a folder for each of four kinds of signs, 24 JPEGs in each; test/ with 24, and test_labels.csv (id,
    label) beside it. Read only."""
    folder = tmp_path_factory.mktemp("signs")
    (folder / "test").mkdir()
    rows = ["id,label"]
    for kind, name in enumerate(SIGNS):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(24):
            draw_sign(kind, number).save(folder / "train" / name / f"{name}_{number:02d}.jpg", quality=92)
        for number in range(6):
            draw_sign(kind, 100 + number).save(folder / "test" / f"{4 * number + kind:03d}.jpg", quality=92)
            rows.append(f"{4 * number + kind:03d},{name}")
    (folder / "test_labels.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, signs: Path) -> Path:
    """The folder of a run over `signs`: two folds of two stages, two kept epochs and two views, with neighbours,
    calibration, sets and strangers fitted. Read only: copy it to change it."""
    from engine.jobs import train

    folder = tmp_path_factory.mktemp("run")
    recipe = parse_recipe(
        {
            "name": "signs",
            "seed": 1,
            "output": str(folder / "models"),
            "data": {
                "train": str(signs / "train"),
                "test": str(signs / "test"),
                "cache": str(folder / "cache"),
                "folds": {"count": 2},
            },
            "augment": {
                "flip": 0.5,
                "crop": {"kind": "random_resized", "scale": [0.7, 1.0]},
                "mix": [{"mixup": 0.2, "cutmix": 1.0, "p": 0.3}],
                "valid": {"fit": "letterbox"},
            },
            "model": {"backbone": "test_convnext", "pretrained": False},
            "train": {"keep_last": 2, "select": "log_loss", "schedule": {"warmup_epochs": 0}},
            "ensemble": {"neighbours": "auto", "neighbours_k": [3], "calibrate": "auto"},
            "predict": {"tta": 2, "risk": 0.1, "false_alarms": 0.05, "batch": 16},
            "stage": [
                {"size": 32, "batch": 8, "epochs": 10, "lr": 8e-3},
                {"size": 48, "batch": 8, "epochs": 4, "lr": 4e-3},
            ],
        }
    )
    train(recipe)
    return folder / "models"


@pytest.fixture(scope="session")
def pictured_run(request: pytest.FixtureRequest) -> Path:
    """The run whose pages are looked at: the one that ENGINE_SCREENSHOTS names (`make demo` leaves demo/models), else
    `finished_run`. Read only."""
    named = os.environ.get("ENGINE_SCREENSHOTS")
    return Path(named) if named else request.getfixturevalue("finished_run")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real browser without a window; skips where there is none (Debian: `apt install chromium`)."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests put pictures of pages: docs/screenshots when ENGINE_SCREENSHOTS names a run to renew them with, else
    a folder that goes."""
    if not os.environ.get("ENGINE_SCREENSHOTS"):
        return tmp_path_factory.mktemp("screenshots")
    folder = Path(__file__).resolve().parents[1] / "docs" / "screenshots"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Callable[..., Any]]:
    """Calls a function in a process of its own, where Triton interprets its kernels on the CPU.

    Triton reads TRITON_INTERPRET when its own library is imported, which other tests may have caused long before.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.syspath_prepend(str(Path(__file__).parents[1]))  # where the process finds functions of tests
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        pool.submit(torch.set_num_threads, 1).result()
    yield lambda function, *arguments: pool.submit(function, *arguments).result()
    pool.shutdown()
