"""The page of a check: pictures in it, nothing from outside, names as text, long lists cut."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from engine.data.checks import Checked, check
from engine.data.ingest import ingest
from engine.recipe.sections import DataSection
from engine.report.findings import MOST_CASES, write_findings

MakeScene = Callable[..., Image.Image]


def checked(source: Path) -> Checked:
    section = DataSection(train=str(source))
    return check(ingest(str(source), section), str(source), section)


def page_of(result: Checked, folder: Path) -> str:
    write_findings(result, folder / "page.html")
    return (folder / "page.html").read_text("utf-8")


def test_sound_data_is_said_to_be_sound(tmp_path: Path, scene: MakeScene) -> None:
    for n in range(20):
        path = tmp_path / "set" / ("hat", "shoe")[n % 2] / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(n).save(path, quality=90)
    assert "Nothing: every file decodes" in page_of(checked(tmp_path / "set"), tmp_path)


def test_the_page_shows_the_pictures_and_asks_nothing_of_a_network(tmp_path: Path, scene: MakeScene) -> None:
    hat, shoe = tmp_path / "set" / "hat", tmp_path / "set" / "shoe"
    hat.mkdir(parents=True), shoe.mkdir()
    for n in range(10):
        scene(n).save((hat, shoe)[n % 2] / f"{n}.jpg")
    (hat / "empty.jpg").write_bytes(b"")
    shutil.copy(hat / "4.jpg", shoe / "four.jpg")
    scene(6).resize((120, 90)).save(hat / "smaller.jpg")
    page = page_of(checked(tmp_path / "set"), tmp_path)
    for title in ("Files that cannot be decoded", "The same file under several labels", "Near-duplicates"):
        assert title in page
    assert page.count('src="data:image/jpeg;base64,') > 10
    assert "no picture" in page  # of the empty file
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "://" not in re.sub(r"data:image/jpeg;base64,[^\"]*", "", page)


def test_the_page_shows_pictures_as_they_are_decoded(tmp_path: Path) -> None:
    """A 16-bit gray PNG, a transparent one, a TIFF turned by EXIF."""
    folder = tmp_path / "set" / "hat"
    folder.mkdir(parents=True)
    ramp = np.tile(np.linspace(0, 65535, 120).astype(np.uint16), (90, 1))
    Image.fromarray(ramp).save(folder / "deep.png")
    Image.new("RGBA", (120, 90), (0, 0, 0, 0)).save(folder / "clear.png")
    Image.fromarray((ramp // 257).astype(np.uint8)).save(folder / "turned.tif", tiffinfo={274: 6})
    urls = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page_of(checked(tmp_path / "set"), tmp_path))
    shown = {base64.b64decode(url) for url in urls}
    pictures = [np.asarray(Image.open(io.BytesIO(one)).convert("L")).astype(int) for one in shown]
    assert sorted((p.shape, bool(p.min() > 250), bool(np.ptp(p) > 200)) for p in pictures) == [
        ((90, 120), False, True),
        ((90, 120), True, False),
        ((120, 90), False, True),
    ]


def test_the_page_writes_names_as_text(tmp_path: Path, scene: MakeScene) -> None:
    for name in ("<b>bold</b>", "가나"):
        (tmp_path / "set" / name.replace("/", "∕")).mkdir(parents=True)
        scene(1).save(tmp_path / "set" / name.replace("/", "∕") / "1.jpg")
    page = page_of(checked(tmp_path / "set"), tmp_path)
    assert "<b>bold" not in page and "&lt;b&gt;bold" in page and "가나" in page


def test_a_long_list_is_cut_on_the_page(tmp_path: Path, scene: MakeScene) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    for n in range(MOST_CASES + 3):
        scene(n, 40, 40).save(tmp_path / "set" / "a" / f"{n}.jpg")
    result = checked(tmp_path / "set")
    assert "and 3 more; --json has them all" in page_of(result, tmp_path)
    (tiny,) = (finding for finding in result.findings if finding.kind == "tiny")
    assert len(tiny.cases) == MOST_CASES + 3
