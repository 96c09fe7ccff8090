"""The suite for machines with a GPU, rehearsed without one: every line of its parts runs on the double."""

from __future__ import annotations

import json
import struct
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gpu_suite  # noqa: E402
import pack_gpu  # noqa: E402
from gpu_parts import checks, feeding, options, passes  # noqa: E402
from gpu_parts.context import Context  # noqa: E402
from gpu_parts.rehearsal import rehearsal  # noqa: E402

PARTS = {"checks": checks.run, "pass": passes.run, "options": options.run, "feed": feeding.run}


@pytest.mark.parametrize("part", PARTS)
def test_every_line_of_a_part_runs_on_the_double(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with rehearsal():
        rows = [*PARTS[part](Context(rehearsed=True, folder=tmp_path))]
    assert len(rows) >= 3 and len({json.dumps(row) for row in rows}) == len(rows)
    assert all(row.get("ok", True) and "failed" not in row for row in rows), rows


def test_a_check_that_fails_is_a_row_and_fails_the_suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def off(context: Context) -> checks.Found:
        return checks.Found(0.2, 0.1, "colours")

    def broken(context: Context) -> checks.Found:
        raise RuntimeError("no device")

    monkeypatch.setattr(checks, "CHECKS", {"off": off, "broken": broken})
    rows = [*checks.run(Context(rehearsed=True, folder=tmp_path))]
    assert [row["ok"] for row in rows] == [False, False]
    assert rows[1]["words"] == "RuntimeError: no device"


def test_a_part_out_of_time_stops_no_other_and_fails_the_suite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = {"slow": "import time; print('began', flush=True); time.sleep(60)", "quick": "print('done')"}
    monkeypatch.setattr(gpu_suite, "command_of", lambda part, _: [sys.executable, "-c", commands[part.name]])
    options_ = type("Options", (), {"minutes": 12 / 60, "results": tmp_path})()
    lines, failed = gpu_suite.run_all([gpu_suite.Planned("slow", 1), gpu_suite.Planned("quick", 1)], options_)
    assert failed
    assert [(name, how) for name, how, _ in lines] == [("slow", "FAILED"), ("quick", "ok")]
    assert "began" in (tmp_path / "gpu_slow.txt").read_text() and "out of time" in lines[0][2]


def test_out_of_time_a_part_ends_with_all_that_it_has_started() -> None:
    ok, said = gpu_suite.run(["sh", "-c", "sleep 60 & echo $!; wait"], 2)
    child, *rest = said.split()
    assert not ok and rest == ["ran", "out", "of", "time"]
    until = time.monotonic() + 30
    while _runs(child) and time.monotonic() < until:  # on a busy machine it takes its time to die
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process: str) -> bool:
    """Not one that has ended and whose end nobody has asked for yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_parts_fit_into_ten_minutes() -> None:
    assert sum(part.seconds for part in gpu_suite.PARTS) <= 9.5 * 60


def test_device_code_of_other_architectures_is_blanked_and_nothing_else(tmp_path: Path) -> None:
    def entry(arch: int, code: bytes) -> bytes:
        header = struct.pack("<HHIQ", 2, 0x101, 64, len(code)) + bytes(12) + struct.pack("<I", arch)
        return header.ljust(64, b"\1") + code

    entries = entry(80, b"a" * 32) + entry(90, b"b" * 40) + entry(100, b"c" * 24)
    fat = pack_gpu._FATBIN + struct.pack("<HHQ", 1, 16, len(entries)) + entries
    path = tmp_path / "library.so"
    path.write_bytes(b"before" + fat + b"after" + pack_gpu._FATBIN + b"cut")
    assert pack_gpu.without_other_architectures(path, 90) == 32 + 24
    left = path.read_bytes()
    assert left.startswith(b"before") and left.endswith(b"after" + pack_gpu._FATBIN + b"cut")
    assert b"b" * 40 in left and b"a" not in left.split(b"before")[1].split(b"after")[0] and b"c" * 2 not in left


def test_trips_are_no_larger_than_what_is_taken_and_hold_everything(tmp_path: Path) -> None:
    parts = []
    for number, size in enumerate((50, 30, 30, 20, 60)):
        parts.append(tmp_path / str(number))
        parts[-1].write_bytes(bytes(size))
    trips = pack_gpu.in_trips(parts, 80)
    assert sorted(part for trip in trips for part in trip) == sorted(parts)
    assert all(sum(part.stat().st_size for part in trip) <= 80 for trip in trips) and len(trips) == 3
    with pytest.raises(SystemExit, match="4: 0 MiB by itself"):
        pack_gpu.in_trips(parts, 59)
