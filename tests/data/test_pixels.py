"""One look at every file: which decode, what they resemble, and that no content is looked at twice."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import pixels
from engine.data.ingest import ingest
from engine.data.manifest import Manifest
from engine.data.near import distances
from engine.data.pixels import PixelFacts, look
from engine.decode.dali import DaliDecoder
from engine.quarantine import Fault, FaultKind
from engine.recipe.sections import DataSection, DecodeSection

MakeScene = Callable[..., Image.Image]


def jpeg(image: Image.Image, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **how})
    return file.getvalue()


def looked(folder: Path, files: dict[str, bytes], cache: Path) -> tuple[Manifest, PixelFacts]:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest = ingest(str(folder), DataSection(cache=str(cache)))
    return manifest, look(manifest, str(folder), str(cache))


def test_a_file_is_refused_exactly_when_the_decoder_of_training_refuses_it(tmp_path: Path, scene: MakeScene) -> None:
    whole, progressive = jpeg(scene(1)), jpeg(scene(2), progressive=True)
    files = {"whole": whole, "progressive": progressive, "cmyk": jpeg(scene(3).convert("CMYK"))}
    for name, content in (("whole", whole), ("progressive", progressive)):
        middle = len(content) // 2
        files |= {
            f"{name} cut": content[:middle],
            f"{name} cut at the end": content[: len(content) * 99 // 100],
            f"{name} with a hole": content[:middle] + bytes(200) + content[middle + 200 :],
            f"{name} with junk behind": content + b"junk" * 50,
        }
    for suffix in ("PNG", "WEBP", "BMP"):
        file = io.BytesIO()
        scene(4).save(file, suffix)
        files |= {suffix: file.getvalue(), f"{suffix} cut": file.getvalue()[: file.tell() // 2]}
    manifest, facts = looked(tmp_path / "set", {f"{name}.jpg": content for name, content in files.items()}, tmp_path)
    contents = [Path(path).read_bytes() for path in manifest.paths]
    decoder = DaliDecoder(torch.device("cpu"), threads=1)
    bad = set()
    for id_, opened in zip(manifest.ids, decoder.open(contents), strict=True):
        if isinstance(opened, Fault) or isinstance(decoder.pixels([opened])[0], Fault):
            bad.add(id_)
    refused = {i for i, a, b in zip(manifest.ids, manifest.faults, facts.faults, strict=True) if a or b}
    assert refused == bad
    assert "whole cut.jpg" in refused and "whole with junk behind.jpg" not in refused
    doubtful = {id_ for id_, doubt in zip(manifest.ids, facts.doubts, strict=True) if doubt}
    assert doubtful == {"whole with a hole.jpg", "progressive with a hole.jpg"}
    format_of = dict(zip(manifest.ids, facts.formats, strict=True))
    assert [format_of[f"{name}.jpg"] for name in ("PNG", "BMP", "WEBP", "cmyk")] == ["png", "bmp", "webp", "jpeg"]
    assert {fault.kind for fault in facts.faults if fault} == {FaultKind.DAMAGED}


def test_a_picture_keeps_its_hash_when_saved_again_and_no_other_has_it(tmp_path: Path, scene: MakeScene) -> None:
    picture = scene(1)
    turned = Image.Exif()
    turned[0x0112] = 6  # stored a quarter counter-clockwise of upright
    files = {
        "a.jpg": jpeg(picture),
        "poor.jpg": jpeg(picture, quality=30),
        "small.jpg": jpeg(picture.resize((80, 60))),
        "flat.jpg": jpeg(picture.resize((160, 100))),
        "bright.jpg": jpeg(Image.eval(picture, lambda value: int(value * 0.8 + 40))),
        "turned.jpg": jpeg(picture.transpose(Image.Transpose.ROTATE_90), exif=turned),
        "other.jpg": jpeg(scene(2)),
        "another.jpg": jpeg(scene(3)),
    }
    manifest, facts = looked(tmp_path / "set", files, tmp_path)
    hash_of = dict(zip(manifest.ids, facts.hash_NB, strict=True))
    apart = {
        name: int(np.bitwise_count(hash_of["a.jpg"] ^ hash_of[name]).sum()) for name in files
    }  # as they are, not turned
    assert max(apart[name] for name in ("poor.jpg", "small.jpg", "flat.jpg", "bright.jpg", "turned.jpg")) <= 16
    assert min(apart[name] for name in ("other.jpg", "another.jpg")) > 60
    assert distances(hash_of["other.jpg"], hash_of["another.jpg"][None])[0] > 48


def test_flat_pictures_are_known_by_their_spread(tmp_path: Path, scene: MakeScene) -> None:
    files = {"blank.jpg": jpeg(Image.new("RGB", (64, 48), "white")), "scene.jpg": jpeg(scene(1))}
    manifest, facts = looked(tmp_path / "set", files, tmp_path)
    spread = dict(zip(manifest.ids, facts.spread_N.tolist(), strict=True))
    assert spread["blank.jpg"] < 1 < 20 < spread["scene.jpg"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that have been looked at so far."""
    names: list[str] = []
    look_at = pixels._look_at

    def counted(path: str, sha1: str, orientation: int) -> pixels._Facts:
        names.append(Path(path).name)
        return look_at(path, sha1, orientation)

    monkeypatch.setattr(pixels, "_look_at", counted)
    return names


def test_no_content_is_looked_at_twice(tmp_path: Path, scene: MakeScene, opened: list[str]) -> None:
    folder, cache = tmp_path / "set", tmp_path / "cache"
    files = {f"a/{n}.jpg": jpeg(scene(n)) for n in range(4)} | {"a/copy.jpg": jpeg(scene(0))}
    _, first = looked(folder, files, cache)
    assert sorted(opened) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    opened.clear()
    _, again = looked(folder, {}, cache)
    assert opened == [] and again.table.equals(first.table)

    (folder / "a" / "1.jpg").rename(folder / "a" / "renamed.jpg")
    manifest, changed = looked(
        folder, {"a/new.jpg": jpeg(scene(9)), "a/0.jpg": b"", "a/bad.jpg": b"\xff\xd8\xff"}, cache
    )
    assert opened == ["new.jpg"]
    rows = {id_: row for row, id_ in enumerate(manifest.ids)}
    assert (changed.hash_NB[rows["a/renamed.jpg"]] == first.hash_NB[1]).all()
    assert not changed.hash_NB[rows["a/0.jpg"]].any() and changed.formats[rows["a/0.jpg"]] == ""


def test_what_was_seen_before_an_interruption_is_kept(
    tmp_path: Path, scene: MakeScene, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.data.threads._CHUNK", 2)
    folder = tmp_path / "set"
    folder.mkdir()
    for n in range(8):
        (folder / f"{n}.jpg").write_bytes(jpeg(scene(n, 40, 40)))
    manifest = ingest(str(folder), DataSection(cache=str(tmp_path)))

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look(manifest, str(folder), str(tmp_path), stop)
    opened.clear()
    assert len(look(manifest, str(folder), str(tmp_path)).hash_NB) == 8
    assert len(opened) <= 4


def test_every_depth_of_a_picture_looks_the_same(tmp_path: Path, scene: MakeScene) -> None:
    """16 bits a value were once cut to 8, and all such pictures blank and each other's duplicates."""
    files: dict[str, bytes] = {}
    for n in range(3):
        gray = scene(n).convert("L")
        deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
        for name, image, format_ in (("8", gray, "PNG"), ("16", deep, "PNG"), ("tiff", deep, "TIFF")):
            file = io.BytesIO()
            image.save(file, format_)
            files[f"{n} {name}.png"] = file.getvalue()
    manifest, facts = looked(tmp_path / "set", files, tmp_path)
    hashes = dict(zip(manifest.ids, (one.tobytes() for one in facts.hash_NB), strict=True))
    assert len(set(hashes.values())) == 3
    assert all(hashes[f"{n} 8.png"] == hashes[f"{n} {name}.png"] for n in range(3) for name in ("16", "tiff"))
    assert facts.spread_N.min() > 20


def test_a_transparent_picture_is_looked_at_over_the_background_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    Image.new("RGBA", (64, 48), (255, 255, 255, 0)).save(folder / "a.png")
    half = Image.new("RGBA", (64, 48), (255, 255, 255, 255))
    half.paste((0, 0, 0, 0), (0, 0, 32, 48))
    half.save(folder / "b.png")
    manifest = ingest(str(folder), DataSection(cache=str(tmp_path)))
    for background, spread in (((1.0, 1.0, 1.0), 0), ((0.0, 0.0, 0.0), 127.5), ((1.0, 1.0, 1.0), 0)):
        section = DecodeSection(background=background)
        facts = look(manifest, str(folder), str(tmp_path), decode=section)
        assert facts.spread_N.tolist() == [0, pytest.approx(spread)]
