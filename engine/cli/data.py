"""`engine data`: make images to try things on, and look at images one has."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.common import progress, set_option, table

if TYPE_CHECKING:
    from engine.recipe.sections import DataSection

MOST_CLASSES_SHOWN = 40


@click.group()
def data() -> None:
    """Make or index images."""


@data.command(
    epilog="""\b
Examples:
  engine data synth data/vehicles
  engine data synth data/vehicles --classes 40 --per-class 100 --seed 7
  engine data synth data/documents --kind documents --train 500 --test 200
""",
)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--kind", type=click.Choice(["vehicles", "documents"]), default="vehicles", show_default=True)
@click.option("--classes", type=int, help="vehicles: number of classes.  [default: 12]")
@click.option("--per-class", type=int, help="vehicles: training images of each class.  [default: 60]")
@click.option("--test-per-class", type=int, help="vehicles: test images of each class.  [default: 10]")
@click.option("--train", type=int, help="documents: training images in all.  [default: 1570]")
@click.option("--test", type=int, help="documents: test images in all.  [default: 3140]")
@click.option("--wrong", type=float, help="documents: share of wrong labels.  [default: 0.02]")
@click.option("--seed", type=int, help="The same seed draws the same bytes.  [default: 0]")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Processes that draw. 0: one per core.")
def synth(folder: Path, kind: str, workers: int, **numbers: float | None) -> None:
    """Draw a data set of JPEGs into FOLDER, new or empty.

    vehicles: a fine-grained set in train/CLASS/ and test/, whose classes differ in small ways.

    documents: seventeen kinds of papers, unbalanced, labels in train.csv, some of them wrong; those of the test part
    are turned, flipped and mixed.

    Both come with sample_submission.csv, and test_labels.csv to score by. Run again after an interruption, it goes on;
    on a finished set, it does nothing.
    """
    from engine.data.synth import DocumentSet, VehicleSet, make

    given = {name: number for name, number in numbers.items() if number is not None}
    made: type[VehicleSet] | type[DocumentSet] = VehicleSet if kind == "vehicles" else DocumentSet
    strange = [name for name in given if name not in {field.name for field in dataclasses.fields(made)}]
    if strange:
        raise click.UsageError(f"--{strange[0].replace('_', '-')} is not for {kind}; see --help")
    try:
        spec = made(**given)  # type: ignore[arg-type]  # click has made them int or float
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with progress(unit="images", title=f"Drawing {kind}") as meter:
        drawn = make(folder, spec, workers, meter)
    click.echo(f"{folder}: {'drawn' if drawn else 'this set is already there, nothing to do'}")
    where = f"--set data.train={folder}/train"
    click.echo(f"Train with {where if kind == 'vehicles' else f'{where}.csv --set data.images={folder}/train'}")


@data.command(
    epilog="""\b
Examples:
  engine data index data/vehicles/train
  engine data index photos.csv
  engine data index recipes/quickstart.toml --set data.train=photos
  engine data index photos --json | jq .classes
""",
)
@click.argument("source", metavar="SOURCE|RECIPE")
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each source instead of tables.")
def index(source: str, sets: tuple[str, ...], as_json: bool) -> None:
    """Index images and say what there is.

    SOURCE is a folder, or a .csv or .parquet table; a RECIPE stands for its data.train and data.test. The index (paths,
    labels, sizes, hashes, damage) is kept beside the images, and only what changed is looked at again. Training does
    this by itself; run it to see what training will see.
    """
    from engine.data.ingest import describe, ingest

    sources, section = _sources(source, sets)
    for name in sources:
        with progress(unit="images", title=f"Indexing {Path(name).name}") as meter:
            found = describe(ingest(name, section, meter))
        if as_json:
            click.echo(json.dumps({"source": name, **found}, ensure_ascii=False))
        else:
            _show(name, found)


def _sources(source: str, sets: tuple[str, ...]) -> tuple[list[str], DataSection]:
    """What is to be indexed, and the section that says how to read it."""
    from engine.recipe.load import load_recipe
    from engine.recipe.sections import DataSection

    if Path(source).suffix == ".toml":
        section = load_recipe(source, sets).data
        sources = [name for name in (section.train, section.test) if name]
        if not sources:
            raise click.UsageError(f"{source}: names no images; add --set data.train=FOLDER")
        return sources, section
    if sets:
        raise click.UsageError(f"--set changes a recipe, and {source} is none (.toml)")
    return [source], DataSection()


def _show(source: str, found: dict[str, Any]) -> None:
    classes = found["classes"]
    if classes:
        few = sorted(classes.items(), key=lambda item: (-item[1], item[0]))
        hidden = few[MOST_CLASSES_SHOWN:]
        rows = few[:MOST_CLASSES_SHOWN]
        if hidden:
            rows.append((f"... and {len(hidden)} smaller classes", sum(count for _, count in hidden)))
        table("class", "images", rows=rows, title=f"{source}: {len(classes)} classes")
    spread = list(found["height"])
    rows = [(name, *(found[name][column] for column in spread)) for name in ("height", "width", "bytes")]
    table("", *spread, rows=rows, title="Sizes (height and width upright, in pixels)")
    facts = [
        ("images", found["samples"]),
        ("usable", found["usable"]),
        ("without a label", found["unlabelled"]),
        ("exact duplicates", found["exact_duplicates"]),
        ("turned by EXIF", sum(count for value, count in found["orientation"].items() if value != "1")),
        ("bytes", found["total_bytes"]),
    ]
    table("", "count", rows=facts, title="In all")
    if found["unusable"]:
        table("file", "why it is left out", rows=[tuple(pair) for pair in found["unusable"]])
