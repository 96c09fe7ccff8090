"""An exported file is asked about its own photos, by this engine and without it; and somebody's program is judged."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from engine.cli.main import main
from engine.errors import CheckpointError, DataError, EngineError
from engine.export import verify as verifying
from engine.export.about import ABOUT, PROOF
from engine.export.from_bytes import taking_bytes
from engine.export.proof import Proof
from engine.export.runner import Exported
from engine.export.verify import TEN_LINES, judge, opened, read_answers, unproven, verify, write_photos
from engine.export.write import put_metadata
from tests.conftest import SIGNS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "verify.md"


def other_head(model: onnx.ModelProto) -> None:
    """The last layer's weights, doubled."""
    ends = [each for each in model.graph.initializer if len(each.dims) == 2 and len(SIGNS) in each.dims]
    found = max(ends, key=lambda each: len(each.raw_data))
    found.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(found), found.name))


@pytest.fixture
def exported(exported_run: Path) -> Path:
    return exported_run


def changed(path: Path, to: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    change(model)
    onnx.save(model, to)
    return to


def test_a_file_proves_itself_whatever_the_threads(exported: Path) -> None:
    for threads in (1, 2, 3):
        verdict = verify(exported, threads)
        assert verdict.same and verdict.worst < 1e-4 and not verdict.stage
    assert [path.name for path in exported.parent.iterdir() if path.is_file()] == ["model.onnx"]  # nothing unproven


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
def test_optimised_or_not_in_batches_or_not_it_answers_the_same(exported: Path, level: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    _, proof = opened(exported)
    for shot, own_C in zip(proof.shots, proof.probabilities_NC, strict=True):
        pixels = verifying.decoded(shot.content)
        for batch in (1, 3):
            answers = session.run(["probabilities"], {"images": np.stack([pixels] * batch)})[0]
            assert np.abs(answers - own_C).max() <= proof.tolerance


def test_ten_lines_without_the_engine_say_the_same(exported: Path, tmp_path: Path) -> None:
    assert f"```python\n{TEN_LINES}```\n" in PAGE.read_text("utf-8")
    assert len([line for line in TEN_LINES.splitlines() if line]) <= 12
    blocked = "import sys; sys.modules['engine'] = sys.modules['torch'] = None; sys.argv = ['', sys.argv[1]]\n"
    command = [sys.executable, "-I", "-c", blocked + TEN_LINES, str(exported)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    assert len(told) == 7 and all(" same " in line for line in told)

    def lie(model: onnx.ModelProto) -> None:
        content = json.loads(Exported.open(exported).proof)
        content["photos"][2]["answer"].reverse()
        put_metadata(model, {PROOF: json.dumps(content)})

    command[-1] = str(changed(exported, tmp_path / "other.onnx", lie))
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    assert [" same " in line for line in told] == [True, True, False, True, True, True, True]


def test_where_a_file_first_differs_is_named(exported: Path, tmp_path: Path) -> None:
    verdict = verify(changed(exported, tmp_path / "weights.onnx", other_head))
    assert not verdict.same and verdict.stage == "network" and "logits_0" in verdict.words and verdict.remedy

    def pixels(model: onnx.ModelProto) -> None:
        """Something between the photos and what the network is shown."""
        node = next(node for node in model.graph.node if "prepared_0" in node.output)
        inner = node.output[0] + "_inner"
        node.output[0] = inner
        place = [*model.graph.node].index(node)
        model.graph.node.insert(place + 1, onnx.helper.make_node("Abs", [inner], ["prepared_0"]))

    verdict = verify(changed(exported, tmp_path / "pixels.onnx", pixels))
    assert not verdict.same and verdict.stage == "resize" and "prepared_0" in verdict.words


def test_photos_that_are_decoded_otherwise_here_are_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = verifying.decoded

    def not_turned(content: bytes) -> np.ndarray:
        from engine.export.readings import as_stored

        return as_stored(content)

    monkeypatch.setattr(verifying, "decoded", not_turned)
    verdict = verify(exported)
    assert not verdict.same and verdict.stage == "orientation" and "5_lying.jpg" in verdict.words
    monkeypatch.setattr(verifying, "decoded", lambda content: 255 - right(content))
    verdict = verify(exported)
    assert not verdict.same and verdict.stage == "decoder"


def test_a_file_that_does_not_verify_is_not_written(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the one before")
    told = r"model.onnx was not written: .* does not verify here. network: "
    with pytest.raises(EngineError, match=told), unproven(path) as file:
        changed(exported, file, other_head)
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"] and path.read_bytes() == b"the one before"


def test_a_file_without_a_proof_is_told_as_such(exported: Path, tmp_path: Path) -> None:
    def bare(model: onnx.ModelProto) -> None:
        kept = [each for each in model.metadata_props if each.key != PROOF]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)

    with pytest.raises(CheckpointError, match="carries no proof"):
        verify(changed(exported, tmp_path / "bare.onnx", bare))
    with pytest.raises(CheckpointError, match="no such file"):
        verify(tmp_path / "none.onnx")


def taken_as_bytes(path: Path, to: Path) -> Path:
    """The same file, which takes photos' files."""
    model = taking_bytes(onnx.load(path))
    put_metadata(model, {ABOUT: json.dumps(Exported.open(path).about | {"takes": "bytes", "batch": 1})})
    onnx.save(model, to)
    return to


def test_a_file_that_takes_bytes_is_taken_apart_and_judges_as_well(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_extensions")
    path = taken_as_bytes(exported, tmp_path / "bytes.onnx")
    assert verify(path).same
    verdict = judge(path, answers_of(exported, lambda pixels: pixels[:, :, ::-1]))
    assert verdict.stage == "channel order"
    verdict = verify(changed(path, tmp_path / "weights.onnx", other_head))
    assert not verdict.same and verdict.stage == "network"


def test_without_its_decoder_a_file_says_what_to_install(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = taken_as_bytes(exported, tmp_path / "bytes.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    with pytest.raises(CheckpointError, match=r"bytes.onnx .*: pip install onnxruntime-extensions"):
        verify(path)


def test_a_proof_of_another_file_is_refused(exported: Path, tmp_path: Path) -> None:
    def shortened(model: onnx.ModelProto) -> None:
        content = json.loads(Exported.open(exported).proof)
        for photo in content["photos"]:
            photo["answer"] = photo["answer"][:2]
        put_metadata(model, {PROOF: json.dumps(content)})

    with pytest.raises(CheckpointError, match="its proof is that of another file"):
        verify(changed(exported, tmp_path / "short.onnx", shortened))


# --- somebody's program ----------------------------------------------------------------------------------------------


def answers_of(path: Path, change: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels) -> dict[str, Any]:
    """What a program answers that reads photos with Pillow and gives the file their pixels, changed."""
    own, proof = opened(path)
    photos = [np.ascontiguousarray(change(verifying.decoded(shot.content))) for shot in proof.shots]
    rows = own.probabilities(photos).tolist()
    return {shot.name: dict(zip(own.classes, row, strict=True)) for shot, row in zip(proof.shots, rows, strict=True)}


def test_somebodys_answers_are_judged_from_the_command_line(exported: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["verify", str(exported), "--photos", str(tmp_path / "photos")])
    assert done.exit_code == 0
    written = sorted(path.name for path in (tmp_path / "photos").iterdir())
    assert written == [shot.name for shot in opened(exported)[1].shots]
    right, wrong = tmp_path / "right.json", tmp_path / "wrong.csv"
    right.write_text(json.dumps(answers_of(exported)), "utf-8")
    done = CliRunner().invoke(main, ["verify", str(exported), "--answers", str(right)])
    assert done.exit_code == 0 and "same; probabilities are off by" in done.output
    theirs = answers_of(exported, lambda pixels: pixels[:, :, ::-1])
    classes = [*next(iter(theirs.values()))]
    lines = [",".join(["photo", *classes])]
    lines += [",".join([Path(name).stem, *(f"{row[c]:.6f}" for c in classes)]) for name, row in theirs.items()]
    wrong.write_text("\n".join(lines), "utf-8")
    done = CliRunner().invoke(main, ["verify", str(exported), "--answers", str(wrong)])
    assert done.exit_code == 1
    assert "channel order: red and blue are swapped" in done.output and "COLOR_BGR2RGB" in done.output
    done = CliRunner().invoke(main, ["verify", str(exported)])
    assert done.exit_code == 0 and "same" in done.output


def test_what_no_fault_explains_is_put_where_it_can_be(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "planted", lambda *_: iter(()))
    _, proof = opened(exported)

    def judged(*wrong: int) -> verifying.Verdict:
        theirs = {shot.name: p.tolist() for shot, p in zip(proof.shots, proof.probabilities_NC, strict=True)}
        for number in wrong:
            theirs[proof.shots[number].name] = [[0.8, 0.1, 0.05, 0.05], [0.05, 0.05, 0.8, 0.1]][number % 2]
        return judge(exported, theirs)

    assert judged().same
    assert judged(4, 5).stage == "orientation"
    assert judged(2, 3, 4, 5, 6).stage == "decoder"
    assert judged(1, 2, 3, 4, 5, 6).stage == "resize"
    everywhere = judged(*range(7))
    assert everywhere.stage == "channel order" and "1_exact.png" in everywhere.words


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "photo\n1_exact,2", "expected a CSV file"),
        ("a.json", "[1]", "expected a CSV file"),
        ("a.csv", "photo,x,y\n1_exact,0.5,high", "expected a CSV file"),
        ("a.csv", "photo,x\n1_exact," + "1" * 200_000, "expected a CSV file"),
    ],
)
def test_answers_that_cannot_be_read_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    limit = csv.field_size_limit(131_072)  # it is the whole process's, and a table with long cells raises it
    try:
        with pytest.raises(DataError, match=words):
            read_answers(path)
    finally:
        csv.field_size_limit(limit)


def test_answers_to_something_else_are_refused(exported: Path) -> None:
    right = answers_of(exported)
    with pytest.raises(DataError, match=r"no answer about 1_exact.png; write the photos out with --photos"):
        judge(exported, {name: row for name, row in right.items() if name != "1_exact.png"})
    other = {name: {"cat": 1.0} | {k: v for k, v in row.items() if k != "네모"} for name, row in right.items()}
    with pytest.raises(DataError, match="no probability of '네모'"):
        judge(exported, other)
    with pytest.raises(DataError, match="2 probabilities for 4 classes"):
        judge(exported, {name: [0.5, 0.5] for name in right})
    for answer in (0.5, None, "cat", dict.fromkeys(SIGNS, "high"), [[0.2, 0.8]] * 4):
        with pytest.raises(DataError, match=r"1_exact.png: expected a probability of each class"):
            judge(exported, dict.fromkeys(right, answer))
    with pytest.raises(DataError, match="no numbers"):
        judge(exported, {name: [float("nan")] * 4 for name in right})


def test_photos_come_out_as_they_went_in(exported: Path, tmp_path: Path) -> None:
    proof = Proof.from_json(Exported.open(exported).proof)
    for path, shot in zip(write_photos(exported, tmp_path / "new" / "folder"), proof.shots, strict=True):
        assert path.read_bytes() == shot.content
