"""Files of every kind: one verdict and one picture, whoever meets them, and the right picture; docs/formats.md says it.

The files are made in kinds.py.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.data.pixels import perceptual_hash
from engine.kernels import jpeg
from engine.quarantine import Fault

from .kinds import Kind, Seen, agrees, kinds, look_at, page

pytestmark = pytest.mark.skipif(not jpeg.available(), reason=jpeg.why_not())

KINDS = kinds()
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """What became of all of them, side by side in one folder and one batch, by name."""
    return {one.kind.name: one for one in look_at(KINDS, tmp_path_factory.mktemp("kinds"))}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_file_has_one_verdict_and_one_picture_whoever_meets_it(seen: dict[str, Seen], kind: Kind) -> None:
    one = seen[kind.name]
    assert agrees(one), {"check": one.fault} | {name: str(answer)[:200] for name, answer in one.behind.items()}
    assert (one.picture is None) == kind.refused, one.fault
    if one.picture is not None:
        # The data check sees a plain JPEG smaller, and these have no fine detail, whose bits are then chance; those of
        # another picture, or of this one turned, differ in 128 of 256.
        hashed = perceptual_hash(cv2.cvtColor(one.picture, cv2.COLOR_RGB2GRAY))
        theirs, ours = (np.frombuffer(each, np.uint8) for each in (one.hash, hashed))
        assert np.bitwise_count(theirs ^ ours).sum() <= (64 if one.plain else 0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.shows is not None], ids=lambda kind: kind.name)
def test_a_picture_is_the_one_that_was_saved(seen: dict[str, Seen], kind: Kind) -> None:
    picture = seen[kind.name].picture
    assert picture is not None and kind.shows is not None and picture.shape == kind.shows.shape
    assert np.abs(picture.astype(int) - kind.shows).max() <= kind.off


def test_the_page_says_what_the_code_does(seen: dict[str, Seen]) -> None:
    made = page(list(seen.values()))
    assert (ROOT / "docs" / "formats.md").read_text("utf-8") == made, (
        "docs/formats.md is out of date; make it again: .venv/bin/python tests/decode/kinds.py > docs/formats.md"
    )


def test_a_refusal_says_what_a_file_is_and_what_to_do(seen: dict[str, Seen]) -> None:
    for name in ("HEIC", "JPEG XL", "TIFF, floats", "SVG", "TIFF of a camera's raw file (DNG)"):
        assert "convert it to" in seen[name].fault
    for name in ("PNG", "GIF", "BMP"):
        (one,) = (one for key, one in seen.items() if key.startswith(f"{name} that promises"))
        assert "decode.max_megapixels" in one.fault
    assert all(isinstance(answer, Fault) for answer in seen["Text"].behind.values())


def test_what_libjpeg_warns_of_is_told_by_the_data_check_alone(seen: dict[str, Seen]) -> None:
    doubtful = {name for name, one in seen.items() if one.doubt}
    assert doubtful == {"JPEG, a hole in its coded data", "JPEG, progressive, a hole in its coded data"}
