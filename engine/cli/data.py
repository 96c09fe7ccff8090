"""`engine data`: make images to try things on, and look at images one has."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.common import FilePath, class_table, echo_json, progress, set_option, table, tell
from engine.cli.court import court
from engine.recipe.load import load_recipe, parse_recipe

if TYPE_CHECKING:
    from engine.recipe.sections import DataSection, DecodeSection, Recipe

MOST_CLASSES_SHOWN = 40


@click.group()
def data() -> None:
    """Make, index, check or augment images, and judge their labels."""


data.add_command(court)


@data.command(
    epilog="""\b
Examples:
  engine data synth data/vehicles
  engine data synth data/vehicles --classes 40 --per-class 100 --seed 7
  engine data synth data/documents --kind documents --train 500 --test 200
""",
)
@click.argument("folder", type=FilePath(file_okay=False))
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
    from engine.synth.sets import DocumentSet, VehicleSet, draw_set

    given = {name: number for name, number in numbers.items() if number is not None}
    chosen: type[VehicleSet] | type[DocumentSet] = VehicleSet if kind == "vehicles" else DocumentSet
    strange = [name for name in given if name not in {field.name for field in dataclasses.fields(chosen)}]
    if strange:
        raise click.UsageError(f"--{strange[0].replace('_', '-')} is not for {kind}; see --help")
    try:
        spec = chosen(**given)  # type: ignore[arg-type]  # click has made them int or float
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with progress(unit="images", title=f"Drawing {kind}") as meter:
        drawn = draw_set(folder, spec, workers, meter)
    click.echo(f"{folder}: {'drawn' if drawn else 'this set is already there, nothing to do'}")
    where = f"--set data.train={folder}/train"
    click.echo(f"Train with {where if kind == 'vehicles' else f'{where}.csv --set data.images={folder}/train'}")


@data.command(
    epilog="""\b
Examples:
  engine data index data/vehicles/train
  engine data index photos.csv --set data.path_column=image_id
  engine data index recipes/quickstart.toml --set data.train=photos
  engine data index photos --json | jq .classes
""",
)
@click.argument("source", type=FilePath(path_type=str), metavar="SOURCE|RECIPE")
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each source instead of tables.")
def index(source: str, sets: tuple[str, ...], as_json: bool) -> None:
    """Index images and say what there is.

    SOURCE is a folder, or a .csv, .tsv or .parquet table, and --set says how it is read; a RECIPE stands for its
    data.train and data.test. The index (paths, labels, sizes, hashes, damage) is kept beside the images, and only what
    changed is looked at again. Training does this by itself; run it to see what training will see.
    """
    from engine.data.describe import describe
    from engine.data.ingest import ingest

    sources, section = _sources(source, sets)
    for name in sources:
        with progress(unit="images", title=f"Indexing {Path(name).name}") as meter:
            found = describe(ingest(name, section, meter))
        if as_json:
            echo_json({"source": name, **found})
        else:
            _show(name, found)


@data.command(
    epilog="""\b
Examples:
  engine data check photos/train
  engine data check photos/train --test photos/test --page check.html
  engine data check recipes/quickstart.toml --set data.train=photos --json check.json
""",
)
@click.argument("source", type=FilePath(path_type=str), metavar="SOURCE|RECIPE")
@set_option
@click.option(
    "--test",
    type=FilePath(path_type=str),
    metavar="SOURCE",
    help="Test images, to look for in SOURCE.  [default: the recipe's data.test]",
)
@click.option(
    "--json",
    "json_file",
    type=FilePath(dir_okay=False, allow_dash=True),
    help="Write all findings to this file, or - to print them.",
)
@click.option("--page", type=FilePath(dir_okay=False), help="Write a page with pictures to this .html file.")
def check(source: str, sets: tuple[str, ...], test: str | None, json_file: Path | None, page: Path | None) -> None:
    """Look for damaged files, duplicates, wrong labels and odd images.

    Every image is decoded once, roughly; what is found is kept beside the images, and the next time only new ones are
    looked at. Files are never changed. The page and the JSON say what training does about each finding, and which key
    of the recipe decides it.
    """
    from engine.data.checks import check as check_images
    from engine.data.ingest import ingest
    from engine.files import write_text
    from engine.report.findings import write_findings

    (train, *recipe_test), section = _sources(source, sets)
    test = test or next(iter(recipe_test), None)
    with progress(unit="images", title="Indexing") as meter:
        manifest = ingest(train, section, meter)
        tested = None if test is None else (ingest(test, section.model_copy(update={"test": test}), meter), test)
    with progress(unit="images", title="Looking") as meter:
        checked = check_images(manifest, train, section, tested, meter, _decode(source, sets))
    if page is not None:
        write_findings(checked, page)
    if json_file is not None:
        if json_file == Path("-"):
            echo_json(checked.to_dict(), indent=1)
            return
        write_text(json_file, json.dumps(checked.to_dict(), ensure_ascii=False, indent=1) + "\n")
    _show(train, checked.facts)
    tell(*(checked.test_facts["notices"] if checked.test_facts else ()))
    rows = [
        (finding.severity, finding.title, len(finding.cases), finding.images or "", finding.such_as)
        for finding in checked.findings
    ]
    if rows:
        table("", "finding", "cases", "images", "such as", rows=rows, title="What was found")
        if page is None:
            click.echo("With pictures, and what to do: --page FILE.html")
    else:
        click.echo("Nothing was found: every file decodes, none is there twice, and the classes are even.")
    for path in (json_file, page):
        if path is not None:
            click.echo(str(path))


@data.command(
    epilog="""\b
Examples:
  engine data names photos/train classes.csv
  engine train recipes/quickstart.toml --set data.label_table=classes.csv
""",
)
@click.argument("source", type=FilePath(path_type=str), metavar="SOURCE|RECIPE")
@click.argument("file", type=FilePath(dir_okay=False))
@set_option
def names(source: str, file: Path, sets: tuple[str, ...]) -> None:
    """Write class names in Latin letters, for data.label_table.

    FILE gets a line for every label, as found and in letters, digits and _, to be mended by hand where wanted. A model
    trained with it knows the Latin names; submissions still have the names as found.
    """
    from engine.data.ingest import ingest
    from engine.data.names import write_label_table
    from engine.text import count

    if file.exists():
        raise click.UsageError(f"{file} is there already; it may have been mended by hand. Move it, or choose another")
    (train, *_), section = _sources(source, sets)
    with progress(unit="images", title="Indexing") as meter:
        labels = sorted(set(ingest(train, section, meter).labels) - {""})
    if not labels:
        raise click.UsageError(f"{train}: its images have no labels")
    write_label_table(labels, file)
    click.echo(f"{file}: {count(labels, 'name')}")


@data.command(
    epilog="""\b
Examples:
  engine data augment photos/train augmented --kinds flip,turn,noise --copies 2
  engine data augment papers.toml augmented --kinds tilt+noise,perspective+shadow,mixup --longest 640
  engine train papers.toml --set data.train=augmented/train.csv --set data.copies=only
""",
)
@click.argument("source", type=FilePath(path_type=str), metavar="SOURCE|RECIPE", required=False)
@click.argument("folder", type=FilePath(file_okay=False), required=False)
@set_option
@click.option("--kinds", metavar="A,B,...", help="What to do; + joins several to one. `all` is each of them alone.")
@click.option("--copies", type=click.IntRange(1), default=1, show_default=True, help="Copies of each kind and image.")
@click.option("--longest", type=click.IntRange(0), default=0, help="Longer side of a copy, at most. 0: the original's.")
@click.option("--border", type=click.Choice(["reflect", "edge", "constant"]), default="reflect", show_default=True)
@click.option("--seed", type=int, help="The same seed makes the same files.  [default: the recipe's, or 0]")
@click.option("--list", "list_", is_flag=True, help="List the kinds and do nothing.")
def augment(
    source: str | None, folder: Path | None, sets: tuple[str, ...], kinds: str | None, list_: bool, **wishes: Any
) -> None:
    """Write augmented copies of training images into FOLDER, new or empty, with a table to train from.

    FOLDER/train.csv lists the originals and what each copy was made of, so that a copy is never trained on while its
    original is validated. Run again after an interruption, it goes on.
    """
    from engine.data.ingest import ingest
    from engine.synth.copies import CopySpec, originals, write_copies
    from engine.synth.kinds import KINDS
    from engine.text import count

    if list_:
        table("kind", "what it does", rows=[(name, kind.what) for name, kind in KINDS.items()])
        return
    if source is None or folder is None or kinds is None:
        raise click.UsageError("give SOURCE, FOLDER and --kinds, or --list")
    (section, seed), decode = _training(source, sets), _decode(source, sets)
    names = tuple(KINDS) if kinds == "all" else tuple(kinds.split(","))
    spec = CopySpec(names, **wishes | {"seed": seed if wishes["seed"] is None else wishes["seed"]})
    with progress(unit="images", title="Indexing") as meter:
        manifest = ingest(section.train, section, meter)
    with progress(unit="images", title="Looking") as meter:
        sources, notices = originals(manifest, section, meter, decode)
    tell(*notices)
    with progress(unit="copies", title="Augmenting") as meter:
        written = write_copies(sources, section, folder, spec, meter, decode)
    tell(*(f"left out: {entry}" for entry in written.left_out.values()))
    click.echo(f"{written.table}: {count(written.originals, 'original')} and {written.copies:,} copies of them")
    elsewhere = " --set data.images=" if section.images else ""
    click.echo(f"Train with --set data.train={written.table}{elsewhere}, on copies alone with --set data.copies=only")


def _training(source: str, sets: tuple[str, ...]) -> tuple[DataSection, int]:
    """The data section to train by, and the seed."""
    if not _is_recipe(source):
        return _around(source, sets).data.model_copy(update={"train": source}), 0
    recipe = load_recipe(source, sets)
    if not recipe.data.train:
        raise click.UsageError(f"{source}: names no training images; add --set data.train=FOLDER")
    return recipe.data, recipe.seed


def _sources(source: str, sets: tuple[str, ...]) -> tuple[list[str], DataSection]:
    """What is to be looked at, the training images first, and the section that says how to read it."""
    if not _is_recipe(source):
        section = _around(source, sets).data
        # A column that is asked for must be there, as in training; else labels are shown where there are some.
        if section.label_column or section.group_column or section.fold_column:
            section = section.model_copy(update={"train": source})
        return [source, *filter(None, [section.test])], section
    section = load_recipe(source, sets).data
    sources = [name for name in (section.train, section.test) if name]
    if not sources:
        raise click.UsageError(f"{source}: names no images; add --set data.train=FOLDER")
    return sources, section


def _is_recipe(source: str) -> bool:
    return Path(source).suffix.lower() == ".toml"


def _around(source: str, sets: tuple[str, ...]) -> Recipe:
    """The recipe that a folder or table is read by when it stands alone: defaults, and what is set of data and decode.
    Raises RecipeError for a key or value that no recipe has, UsageError for one that is of no use here."""
    nothing = {"stage": [{"size": 64, "batch": 1, "epochs": 1, "lr": 1e-3}]}
    plain, recipe = parse_recipe(nothing), parse_recipe(nothing, sets)
    if recipe.model_copy(update={"data": plain.data, "decode": plain.decode}) != plain:
        raise click.UsageError(
            f"--set {' --set '.join(sets)}: only data and decode count here; {source} is no recipe (.toml)"
        )
    if recipe.data.train not in ("", source):
        raise click.UsageError(f"--set data.train={recipe.data.train}: the images are given already, as {source}")
    return recipe


def _decode(source: str, sets: tuple[str, ...]) -> DecodeSection:
    """How images are decoded: as a recipe says, or what is set."""
    return (load_recipe if _is_recipe(source) else _around)(source, sets).decode


def _show(source: str, found: dict[str, Any]) -> None:
    tell(*found["notices"])
    if classes := found["classes"]:
        class_table(classes, MOST_CLASSES_SHOWN, f"{source}: {len(classes)} classes")
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
