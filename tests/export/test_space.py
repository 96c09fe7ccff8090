"""A generated Space: what is in the folder, and that its page, run where gradio is, answers as the file does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageOps

from engine.cli.main import main
from engine.errors import DataError
from engine.export.runner import Exported
from engine.export.space import write_space
from tests.conftest import smooth

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-space" / "bin" / "python"
START_S = 240.0  # until the page is there, on a machine that is busy


ABOUT = {
    "format": 1,
    "classes": ["red", "초록", "blue"],
    "batch": 2,
    "takes": "pixels",
    "precision": "fp32",
    "background": [0.0, 0.2, 1.0],
    "made": "2026-11-26T00:00:00+00:00",
    "models": [{}],
    "licence": {"engine": "Apache License", "weights": [{"backbone": "none", "licence": "trained from nothing"}]},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file that says of itself what an export says: which colour is the mean of a photo, two at a time."""
    path = tmp_path_factory.mktemp("space") / "shoes.onnx"
    axes = numpy_helper.from_array(np.array([1, 2]), "axes")
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "loud"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    photos = helper.make_tensor_value_info("images", TensorProto.UINT8, [2, "height", "width", 3])
    answers = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [2, 3])
    loud = numpy_helper.from_array(np.float32(0.02), "loud")
    graph = helper.make_graph(nodes, "means", [photos], [answers], [axes, loud])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(made, {"engine": json.dumps(ABOUT)})
    onnx.save(made, path)
    return path


@pytest.fixture(scope="module")
def space(model: Path) -> Path:
    folder = model.parent / "space"
    write_space(folder, model, 'Bag: or "shoe"?')
    return folder


def test_it_is_a_gradio_space_with_the_file_and_no_engine(space: Path, model: Path) -> None:
    _, header, text = (space / "README.md").read_text("utf-8").split("---\n", 2)
    said = yaml.safe_load(header)
    assert said["sdk"] == "gradio" and said["app_file"] == "app.py" and said["title"] == 'Bag: or "shoe"?'
    assert "3 classes" in text and "Apache License" in text
    wanted = (space / "requirements.txt").read_text("utf-8").split()
    assert f"gradio=={said['sdk_version'].rpartition('.')[0]}.*" in wanted and "onnxruntime" in wanted
    assert "import engine" not in (space / "app.py").read_text("utf-8")
    assert (space / "model.onnx").read_bytes() == model.read_bytes()


def test_written_again_it_is_renewed_and_nothing_that_is_mine_is_lost(model: Path, tmp_path: Path) -> None:
    write_space(tmp_path, model, "Mine")
    before = write_space(tmp_path, model, "Mine")
    assert all(path.is_file() for path in before)
    (tmp_path / "README.md").write_text("my own words", "utf-8")
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(DataError, match=r"README\.md is there already"):
        write_space(tmp_path, model, "Mine")
    assert (tmp_path / "README.md").read_text("utf-8") == "my own words" and not (tmp_path / "model.onnx").exists()


def test_a_file_that_the_page_cannot_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"none")
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--space", str(tmp_path / "space"), "--model", str(tmp_path / "model.onnx")])
    assert stopped.value.code == 1 and not (tmp_path / "space").exists()


@pytest.fixture(scope="module")
def page(space: Path) -> Iterator[str]:
    """The address of the page, run by the Python that has gradio and no engine."""
    if not PYTHON.is_file():
        pytest.skip(f"{PYTHON.relative_to(ROOT)} is not there: `make test` makes it where gradio can be had")
    (space / "examples").mkdir(exist_ok=True)
    smooth(60, 80, seed=1).save(space / "examples" / "0.jpg")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    settings = {"GRADIO_SERVER_PORT": port, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    program = subprocess.Popen([PYTHON, "app.py"], cwd=space, env={**os.environ, **settings, "PYTHONPATH": ""})
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while True:
            assert program.poll() is None, "app.py has stopped"
            try:
                httpx.get(f"{address}/config", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                assert time.monotonic() < end, "app.py does not answer"
                time.sleep(0.2)
        yield address
    finally:
        program.terminate()
        program.wait()


def asked(page: str, name: str, content: bytes) -> httpx.Response:
    """What the page's own interface answers about a file."""
    (path,) = httpx.post(f"{page}/gradio_api/upload", files={"files": (name, content)}).json()
    photo = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    event = httpx.post(f"{page}/gradio_api/call/classify", json={"data": [photo]}).json()["event_id"]
    return httpx.get(f"{page}/gradio_api/call/classify/{event}", timeout=30)


def test_the_page_answers_as_the_file_does(page: str, model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth(50, 90, seed=5).save(tmp_path / "lying.jpg", exif=exif)
    Image.merge("RGBA", [*smooth(40, 50, seed=6).split(), Image.linear_gradient("L").resize((50, 40))]).save(
        tmp_path / "glass.png"
    )
    exported = Exported.open(model)
    for name in ("lying.jpg", "glass.png"):
        with Image.open(tmp_path / name) as opened:
            photo = ImageOps.exif_transpose(opened)
            if photo.mode == "RGBA":
                photo = Image.alpha_composite(Image.new("RGBA", photo.size, (0, 51, 255)), photo)
            pixels_HW3 = np.asarray(photo.convert("RGB"))
        expected_C = exported.probabilities([pixels_HW3])[0]
        (told,) = json.loads(asked(page, name, (tmp_path / name).read_bytes()).text.partition("data: ")[2])
        found = {each["label"]: each["confidence"] for each in told["confidences"]}
        assert told["label"] == exported.classes[expected_C.argmax()]
        assert found == pytest.approx(dict(zip(exported.classes, expected_C.tolist(), strict=True)), abs=1e-5)


def test_what_is_no_photo_is_told_and_the_page_goes_on(page: str) -> None:
    assert asked(page, "text.jpg", b"no image at all").text.startswith("event: error")
    config = httpx.get(f"{page}/config").text
    assert "0.jpg" in config
