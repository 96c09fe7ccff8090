"""A run as a file: it answers alike, says what it is, and is refused where it could not."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper
from PIL import Image, ImageOps

from engine.cli.main import main
from engine.errors import CheckpointError, DataError, RecipeError
from engine.export import write as writing
from engine.export.about import ABOUT
from engine.export.from_bytes import taking_bytes
from engine.export.prove import asked_of
from engine.export.runner import Exported
from engine.export.tensorrt import without_doubles
from engine.export.write import Wanted, models_of, put_metadata, write
from engine.predict.models import Wishes, load_models
from engine.predict.predictor import Predictor
from tests.conftest import draw, smooth

PHOTOS = [draw(1), draw(2, 90, 61), draw(3, 20, 300), draw(4, 1, 1), draw(5), draw(6, 700, 900)]


def test_onnxruntime_answers_as_the_run_does(finished_run: Path, exported_run: Path) -> None:
    exported, run = Exported.open(exported_run, threads=1), Predictor(finished_run)
    assert exported.classes == run.classes
    found_NC = exported.probabilities(PHOTOS)
    assert found_NC.dtype == np.float32 and found_NC.shape == (len(PHOTOS), 4)
    assert np.abs(found_NC - run(PHOTOS).probabilities_NC).max() < 1e-5


def test_a_file_says_what_it_is(finished_run: Path, exported_run: Path) -> None:
    about = Exported.open(exported_run).about
    assert (
        about["views"] == ["plain", "plain_flip"]
        and about["fitted"] == load_models(finished_run, Wishes()).runs[0].parts.names
    )
    assert about["proof"] == "training photos, made small" and about["background"] == [1.0, 1.0, 1.0]
    assert about["contracts"][0]["height"] == 48 and about["contracts"][0]["fit"] == "letterbox"
    assert about["input"]["channels"] == "RGB" and about["precision"] == "fp32" and about["takes"] == "pixels"
    assert about["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "Apache License" in about["licence"]["engine"]
    assert about["licence"]["weights"][0]["licence"].startswith("trained from nothing")
    assert [one["name"] for one in about["models"]] == [
        member.name for member in models_of(finished_run, Wanted())[0].members
    ]


def test_what_lies_between_can_be_asked_for_by_name(exported_run: Path) -> None:
    model = onnx.load(exported_run)
    assert [each.name for each in model.graph.output] == ["probabilities"]
    made = {name for node in model.graph.node for name in node.output}
    assert {"prepared_0", "prepared_1", "logits_0", "logits_3", "features_3"} <= made


def test_nothing_of_this_machine_is_in_the_file(exported_run: Path) -> None:
    content = exported_run.read_bytes()
    assert b"site-packages" not in content and str(Path(__file__).parents[2]).encode() not in content


def test_for_tensorrt_no_tensor_is_float64(exported_run: Path) -> None:
    model = without_doubles(onnx.load(exported_run))
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    kinds = {each.type.tensor_type.elem_type for each in inferred.value_info}
    assert TensorProto.DOUBLE not in kinds | {each.data_type for each in model.graph.initializer}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected_NC = Exported.open(exported_run).probabilities(PHOTOS)
    found_NC = np.concatenate([session.run(None, {"images": photo[None]})[0] for photo in PHOTOS])
    assert np.abs(found_NC - expected_NC).max() < 1e-4


def test_the_command_writes_whole_numbers_and_shows_what_they_cost(
    finished_run: Path, signs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And drawn photos are all that it carries, when it is told so."""
    monkeypatch.setattr("engine.export.write.photos_of", lambda *_: pytest.fail("training photos are looked at"))
    path = tmp_path / "new" / "small.onnx"
    arguments = ["export", str(finished_run), "--to", "onnx", "--fold", "1", "--views", "plain", "--batch", "2"]
    shown = CliRunner().invoke(main, [*arguments, "--precision", "int8", "--drawn", "--out", str(path)])
    assert shown.exit_code == 0, shown.output
    for word in ("On 64 photos", "off by", "same answer", "log loss", "photos/s", "small.onnx"):
        assert word in shown.output
    assert "carries seven drawn photos" in " ".join(shown.output.split())
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    exported, models = Exported.open(path), models_of(finished_run, Wanted(fold="1", views=("plain",)))[0]
    assert exported.about["proof"] == "drawn photos" and exported.proof
    assert exported.batch == 2 and exported.about["precision"] == "int8"
    found_NC = exported.probabilities(PHOTOS)  # of sizes that make no pairs
    assert 1e-7 < np.abs(found_NC - asked_of(models)(PHOTOS)).max() < 0.1


def test_torch_answers_as_the_run_does(finished_run: Path, tmp_path: Path) -> None:
    wanted, path = Wanted("torch", fold="0", views=("plain",)), tmp_path / "model.pt2"
    models, folder = models_of(finished_run, wanted)
    write(models, path, wanted)
    exported = Exported.open(path)
    assert exported.about["views"] == ["plain"] and exported.proof
    with zipfile.ZipFile(path) as archive:  # nothing of this machine is in it
        said = b"".join(archive.read(name) for name in archive.namelist())
    assert b"site-packages" not in said and str(Path(__file__).parents[2]).encode() not in said
    expected_NC = Predictor(folder, views=["plain"])(PHOTOS).probabilities_NC
    assert np.abs(exported.probabilities(PHOTOS) - expected_NC).max() < 1e-5


@pytest.mark.parametrize("orientation", range(10))
def test_a_file_is_decoded_to_upright_rgb_in_the_graph(orientation: int) -> None:
    library = pytest.importorskip("onnxruntime_extensions").get_library_path()
    kinds = [helper.make_tensor_value_info(name, TensorProto.UINT8, ["b", "h", "w", 3]) for name in ("images", "o")]
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["o"])], "pixels", kinds[:1], kinds[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(taking_bytes(model).SerializeToString(), options)
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", orientation  # 0 and 9 mean nothing
    for endian in "<>":
        exif.endian = endian
        file = io.BytesIO()
        smooth(31, 48).save(file, "JPEG", quality=95, subsampling=0, **({"exif": exif} if orientation else {}))
        expected_HW3 = np.asarray(ImageOps.exif_transpose(Image.open(file)))
        found_1HW3 = session.run(None, {"file": np.frombuffer(file.getvalue(), np.uint8)})[0]
        assert found_1HW3.shape == (1, *expected_HW3.shape)
        assert np.abs(found_1HW3[0].astype(int) - expected_HW3).max() <= 4


def test_what_no_runtime_would_run_is_refused(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for told, options in {
        r"--precision int8.*--to onnx": {"kind": "torch", "precision": "int8"},
        r"--precision bf16.*--to torch": {"precision": "bf16"},
        r"--bytes.*without --batch": {"bytes": True, "batch": 4},
    }.items():
        with pytest.raises(RecipeError, match=told):
            Wanted(**options)
    with pytest.raises(RecipeError, match=r"--fold 7: .*; it has 0, 1"):
        models_of(finished_run, Wanted(fold="7"))
    with pytest.raises(RecipeError, match=r"--out .*model.bin: a file of --to torch .* ends in .pt2"):
        write(models_of(finished_run, Wanted())[0], tmp_path / "new" / "model.bin", Wanted("torch"))
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="pip install onnxruntime-extensions"):
        write(models_of(finished_run, Wanted())[0], tmp_path / "model.onnx", Wanted(bytes=True))
    wanted = Wanted(precision="int8")
    with pytest.raises(DataError, match="name a folder of such photos with --photos"):
        write(models_of(finished_run, wanted)[0], tmp_path / "model.onnx", wanted)
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_is_none_is_refused(exported_run: Path, tmp_path: Path) -> None:
    for name, content, told in (
        ("gone.onnx", None, "no such file"),
        ("model.bin", b"", r"expected a file of .onnx or .pt2"),
        ("broken.onnx", b"broken", "cannot be run here"),
        ("broken.pt2", b"broken", "cannot be read"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=told):
            Exported.open(tmp_path / name)
    model = onnx.load(exported_run)
    del model.metadata_props[:]
    (tmp_path / "bare.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="was not made by engine export"):
        Exported.open(tmp_path / "bare.onnx")
    put_metadata(model, {ABOUT: '{"format": 1, "classes": ["a"]}'})
    (tmp_path / "half.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"half.onnx: what it says about itself is damaged .*'batch'"):
        Exported.open(tmp_path / "half.onnx")
    with pytest.raises(ValueError, match="expected RGB pixels"):
        Exported.open(exported_run).probabilities([np.zeros((4, 4), np.uint8)])
    with pytest.raises(DataError, match="takes pixels"):
        Exported.open(exported_run).of_bytes([b""])
