"""docs/architecture.md says what the rooms say of themselves, and what it names exists, once."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from architecture import ANSWER, BATCH, FLOW, NOUNS, STEP, House, page, sentence  # noqa: E402

HOUSE = House()
NAMES = sorted({*NOUNS, *re.findall(r"\{(\w+)\}", BATCH + ANSWER)})


def test_the_file_is_up_to_date() -> None:
    file = ROOT / "docs" / "architecture.md"
    assert file.is_file() and file.read_text(encoding="utf-8") == page(), (
        "docs/architecture.md is out of date; make it again: python docs/architecture.py > docs/architecture.md"
    )


@pytest.mark.parametrize("room", HOUSE.rooms)
def test_a_room_says_what_it_is_for(room: str) -> None:
    paragraphs = HOUSE.door(room).text.split("\n\n")
    assert sentence(paragraphs[0]).endswith("."), f"{room}: its docstring begins with a sentence, its line on the page"
    if HOUSE.inside(room):
        assert len(paragraphs) >= 3 and "Handed" in paragraphs[1], (
            f"engine/{room}/__init__.py: say what the room is for, what it is handed and hands on, and why it stands "
            "where it stands, a paragraph each"
        )


@pytest.mark.parametrize("name", NAMES)
def test_what_the_page_names_stands_in_one_place(name: str) -> None:
    places = [module.path.relative_to(ROOT).as_posix() for module, _ in HOUSE.definitions(name)]
    assert len(places) == 1, f"{name} is defined in {places or 'no module'}"


def test_no_room_stands_twice_in_the_flow() -> None:
    assert sum(map(len, FLOW)) == len(STEP)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_a_page_is_made_of_docstrings_and_imports_alone(tmp_path: Path) -> None:
    _write(tmp_path / "kernels/__init__.py", '"""One pass. And more."""\nfrom .plan import Plan\n')
    _write(tmp_path / "kernels/plan.py", 'class Plan:\n    """What is done."""\n')
    _write(tmp_path / "engine/augment/__init__.py", '"""Draws | numbers."""\n')
    _write(tmp_path / "engine/augment/policy.py", "from engine.kernels import Plan\nplan = Plan.of(1)\n")
    _write(tmp_path / "engine/loader/__init__.py", '"""Batches."""\n')
    _write(tmp_path / "engine/loader/passes.py", "from engine.kernels import plan\ndef f(x: plan.Plan): ...\n")
    _write(tmp_path / "engine/loader/other.py", "from elsewhere import Plan\nPlan()\n")
    made = page(House(tmp_path))
    assert "kernels > augment > loader" in made
    assert "| [kernels](../kernels) | One pass. |" in made
    assert "| [augment](../engine/augment) | Draws \\| numbers. |" in made
    assert "| [`Plan`] | What is done. | augment | kernels, loader |" in made
    assert "[`Plan`]: ../kernels/plan.py" in made
    assert "In it: `other`, `passes`." in made
