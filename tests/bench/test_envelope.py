"""Every result has one form, which says where, when, how and with what it was measured, and names no place."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from engine.bench.envelope import Envelope, command_line, machine, read
from engine.errors import EngineError

CPU = torch.device("cpu")
ROWS = [{"peer": "engine", "windows": [1.5, 2.0]}, {"peer": "다른 것", "windows": []}]


@pytest.fixture
def result() -> Envelope:
    return Envelope.of(ROWS, {"batch": 64}, CPU, "python benchmarks/made_up.py")


def test_what_was_written_is_read_again(result: Envelope, tmp_path: Path) -> None:
    result.write(tmp_path / "new" / "result.json")
    assert read(tmp_path / "new" / "result.json") == result
    assert Envelope(**json.loads(result.line())) == result
    assert "\n" not in result.line()


def test_it_names_the_machine_the_versions_and_the_date(result: Envelope) -> None:
    assert result.versions["torch"] == torch.__version__.partition("+")[0]
    assert result.date.endswith("+00:00")
    assert result.machine == machine(CPU)
    assert (result.machine["device"], result.machine["torch_threads"]) == ("cpu", torch.get_num_threads())
    assert {"cpu", "cores", "system"} <= result.machine.keys()


@pytest.mark.parametrize("change", [{"rows": {}}, {"versions": None}, {"summary": 1}])
def test_a_file_of_another_form_is_refused(result: Envelope, tmp_path: Path, change: dict[str, object]) -> None:
    content = dataclasses.asdict(result) | change
    path = tmp_path / "result.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), "utf-8")
    with pytest.raises(EngineError, match=r"result\.json: a result has the keys command, date, machine"):
        read(path)


@pytest.mark.parametrize("content", ["", "[1]", None])
def test_what_is_no_result_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(EngineError, match=r"result\.json: "):
        read(path)


def test_a_command_names_no_place_on_this_machine() -> None:
    words = ["benchmarks/bench_timm.py", "--data", "/home/me/photos/train", "--json=/tmp/out/r.json", "--lr=0.1"]
    short = "python benchmarks/bench_timm.py --data photos/train --json=out/r.json --lr=0.1"
    assert command_line(["python"], words) == short
