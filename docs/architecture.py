"""docs/architecture.md, made from the flow and from what the rooms say of themselves:
`python docs/architecture.py > docs/architecture.md`.

The flow stands here once. The page shows it, and tests/test_imports.py refuses an import that goes against it; a test
holds the page to what this makes. Everything is read off the source and nothing is imported: a map must not wait for
torch, and shows a house that does not run yet as well. The other way, a page written by hand, is right for a month.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

GROUND = (
    *("errors", "text", "files", "system", "exhausted", "quarantine", "hush", "pictures"),
    *("events", "predictions", "metrics", "intervals"),
)

# Stretches of the way from the ground to the command line, and in each the rooms in order. Rooms on one line are
# siblings that do not know each other. `kernels` imports nothing; decoding already hands on its type of ragged images.
STRETCHES: dict[str, list[list[str]]] = {
    "the ground": [[module] for module in GROUND],
    "from a photo to a batch": [
        ["kernels"],
        ["recipe"],
        ["data"],
        ["order", "ranks"],
        ["decode"],
        ["augment"],
        ["loader"],
    ],
    "from a batch to an answer": [["model"], ["store"], ["inference"], ["ensemble"]],
    "whole runs": [["training", "predict"]],
    "around them": [
        ["tune", "track", "synth", "advice"],
        ["court", "export"],
        ["report"],
        ["serve"],
        ["jobs"],
        ["bench"],
        ["cli"],
    ],
}
FLOW = [step for stretch in STRETCHES.values() for step in stretch]
STEP = {room: step for step, rooms in enumerate(FLOW) for room in rooms}

# What rooms hand to each other, in the order in which a run comes across it.
NOUNS = (
    "Recipe",
    "Manifest",
    "Source",
    "Opened",
    "Pixels",
    "Plan",
    "Batch",
    "Quarantine",
    "Learner",
    "Checkpoint",
    "RunFolder",
    "Member",
    "Predictions",
    "LabelledPredictions",
    "Ensemble",
    "Event",
)

INTRODUCTION = """\
# Architecture

A map for whoever reads the code for the first time. It is made from the source (`python docs/architecture.py >
docs/architecture.md`), so change the docstring and not this page. What to do where is said in
[CONTRIBUTING.md](../CONTRIBUTING.md).

The engine is a house of rooms, and work goes through them one way: a room imports only rooms before it, never those
after it or beside it. So a room can be read knowing what stands before it, and changed looking at what stands after it.
`tests/test_imports.py` refuses an import that goes the other way. Below, `>` is the way, rooms with a comma between
them stand beside each other, and under them is what they hand on.
"""

# Names in braces are classes and functions, and become links to where they are defined.
BATCH = """\
Which images make up a training batch is known before anything of them is read: `order` is a function of the seed and
the epoch. A thread of the loader then goes straight down, some batches ahead of the model:

1. **bytes**: a {Source} reads the files of the batch. What it cannot read is a {Fault} in the file's place. Photos that
   `decode.cache` keeps are neither read nor decoded.
2. **opened**: {Decoder}`.open` reads the headers: {Opened}, upright height and width.
3. **plan**: {Policy}`.draw` makes the {Plan}: for each image a matrix, a few steps of colour, rectangles, a partner to
   mix with. All numbers are hashes of (seed, epoch, the image's key), so they are the same on any rank, in any batch.
4. **regions**: the plan says which part of each photo it looks at, and how much smaller the photo may be decoded.
5. **pixels**: {Decoder}`.pixels` decodes these parts and no more: {Pixels}.

Then, on a GPU in the same thread, on a stream of its own and into a ring of buffers; on the CPU when the model asks for
the batch:

6. **extras**: blur, noise and whatever else looks at a pixel's neighbours is done by {apply_extras}, to the images that
   drew it.
7. **pass**: {one_pass} runs the plan: each source pixel is read once, each output pixel written once, normalised and
   channels-last. That is a {Batch}.
8. **step**: the {Learner} takes it: model, {Loss}, gradients, optimiser, averages.

Scoring takes the same way with nothing drawn: the plan comes out of the {Contract}, and what it looks at is decoded at
the photo's full resolution."""
ANSWER = """\
1. **members**: a {RunFolder} knows its {Checkpoint}s, and each becomes a {Member}: the model, with the contract and the
   precision that it was scored with. The {Ensemble} saved beside them says views, vote and specialists.
2. **views**: the loader makes the batches, and {Members} gives the logits of each for every view.
3. **predictions**: scoring blends the views, over all rows and ranks: {Predictions}, one for each member. This is also
   how an epoch is validated and how out-of-fold answers are made, so they can be compared.
4. **ensemble**: a fold's specialists are heard about the images that the fold gave to their classes, and then
   {vote} makes one answer of all, joined by sample id and class name.
5. **files**: `predictions.parquet` holds them by id and class; a {Sheet} brings them into the columns and the order of
   the user's sample submission. Where labels are known, the metrics say how good they are.

While training the same predictions are made for the images that each fold held out. They are what a run is judged by,
and what anything that is fitted later is fitted on."""


class Import(NamedTuple):
    """`from source import name`, or `import source` where the name is empty; `relative` if written with dots."""

    line: int
    source: str  # in full
    name: str
    relative: bool


_READS = re.compile(r"(load|read)(_|$)")


@dataclasses.dataclass(frozen=True)
class Module:
    """One file of the source. `name` is the module's as installed, `room` its place in the flow."""

    path: Path
    name: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.name.split(".")[1] if "." in self.name else ""

    @property
    def text(self) -> str:
        """Its docstring."""
        return ast.get_docstring(self.tree) or ""

    @property
    def package(self) -> list[str]:
        """What its relative imports start from."""
        parts = self.name.split(".")
        return parts if self.path.name == "__init__.py" else parts[:-1]

    @cached_property
    def imports(self) -> list[Import]:
        """What is imported here, wherever it stands: an import inside a function counts as well."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [Import(node.lineno, alias.name, "", False) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self.package[: len(self.package) - node.level + 1] if node.level else []
                source = ".".join([*base, *filter(None, [node.module])])
                found += [Import(node.lineno, source, alias.name, node.level > 0) for alias in node.names]
        return found

    @cached_property
    def calls(self) -> set[str]:
        """Names that are called here, and those that calls begin with: all of `checkpoint.Checkpoint.of(...)`. Calls
        that only read, such as `Checkpoint.load(...)`, are left out."""
        functions = [node.func for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        making = [func for func in functions if not (isinstance(func, ast.Attribute) and _READS.match(func.attr))]
        called = [part for func in making for part in ast.walk(func)]
        names = {part.id for part in called if isinstance(part, ast.Name)}
        return names | {part.attr for part in called if isinstance(part, ast.Attribute)}

    @cached_property
    def attributes(self) -> set[str]:
        """Names that stand behind a full stop here."""
        return {node.attr for node in ast.walk(self.tree) if isinstance(node, ast.Attribute)}

    @cached_property
    def own(self) -> dict[str, ast.ClassDef | ast.FunctionDef]:
        """Classes and functions that are defined at the top of this module."""
        return {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}

    def known(self, home: Module) -> set[str]:
        """Names of module `home` that are known here: its own at home, elsewhere what is imported from it, or from a
        package that passes it on; where the module itself is imported, those that stand behind a full stop."""
        if self is home:
            return set(self.own)
        known = set()
        for found in self.imports:
            if f"{found.source}.{found.name}" == home.name:
                known |= self.attributes & set(home.own)
            elif f"{home.name}.".startswith(f"{found.source}."):
                known.add(found.name)
        return known


class House:
    """What the source under `root` says: its modules, who defines a name, and who takes it."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root

    @cached_property
    def modules(self) -> list[Module]:
        """All modules of the engine, by path; kernels/ under the name that it is installed under."""
        found = []
        for folder in (self.root / "engine", self.root / "kernels"):
            for path in sorted(folder.rglob("*.py")):
                parts = path.relative_to(self.root).with_suffix("").parts
                if parts[:2] == ("engine", "kernels"):  # the link to kernels/
                    continue
                name = ".".join((("engine",) if parts[0] == "kernels" else ()) + parts).removesuffix(".__init__")
                found.append(Module(path, name, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))))
        return found

    @property
    def rooms(self) -> list[str]:
        """The rooms that there are, in the order of the flow."""
        there = {module.room for module in self.modules}
        return [room for step in FLOW for room in step if room in there]

    def door(self, room: str) -> Module:
        """The module whose docstring speaks for the room: a package's __init__, or the one file."""
        return next(module for module in self.modules if module.name == f"engine.{room}")

    def inside(self, room: str) -> list[str]:
        """Names of a room's modules and packages, its __init__ left out; [] when it is one file."""
        names = {module.name.split(".")[2] for module in self.modules if module.name.startswith(f"engine.{room}.")}
        return sorted(names)

    def definitions(self, name: str) -> list[tuple[Module, ast.ClassDef | ast.FunctionDef]]:
        """Where a class or function of this name is defined at the top of a module."""
        return [(module, module.own[name]) for module in self.modules if name in module.own]

    def makers(self, home: Module, name: str) -> list[str]:
        """Rooms that make things of the class `name` of module `home`, or of another class there that is one, and no
        noun of its own; the room at home where nobody calls it by name."""
        kinds = {other for other, node in home.own.items() if _is_a(node, home.own[name])} - set(NOUNS)
        making = {module.room for module in self.modules if module.calls & module.known(home) & {name, *kinds}}
        return [room for room in self.rooms if room in making] or [home.room]

    def takers(self, home: Module, name: str) -> list[str]:
        """Rooms that name the class and do not make any, in the order of the flow."""
        taking = {module.room for module in self.modules if module is not home and name in module.known(home)}
        return [room for room in self.rooms if room in taking.difference(self.makers(home, name))]


def _is_a(node: ast.stmt, wanted: ast.stmt) -> bool:
    """Whether a class is derived from the wanted one, or has all methods of the wanted protocol."""
    if not isinstance(node, ast.ClassDef) or not isinstance(wanted, ast.ClassDef):
        return False
    bases = [ast.unparse(base) for base in wanted.bases]
    return wanted.name in map(ast.unparse, node.bases) or ("Protocol" in bases and _methods(wanted) <= _methods(node))


def _methods(node: ast.ClassDef) -> set[str]:
    return {part.name for part in node.body if isinstance(part, ast.FunctionDef)}


def sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) ", paragraph, maxsplit=1)[0]


def page(house: House | None = None) -> str:
    """The text of docs/architecture.md."""
    house = house or House()
    parts = [
        INTRODUCTION,
        "```text",
        *_picture(house),
        "```",
        "",
        "## The rooms, a line each",
        *_lines(house),
        "",
        "## What they hand to each other",
        "",
        "Each of these exists once: one type, one owner, one form on disk where it goes to disk.",
        "",
        "| Noun | What it is | Made or opened by | Taken by |",
        "|---|---|---|---|",
        *_nouns(house),
        "",
        "## Follow a batch",
        "",
        _linked(BATCH),
        "",
        "## Follow an answer",
        "",
        _linked(ANSWER),
        "",
        "## The rooms in full",
        *_rooms(house),
        "",
        *_links(house),
    ]
    return "\n".join(parts) + "\n"


def _picture(house: House) -> list[str]:
    """The flow as text, a stretch after the other, each with the nouns that are at home in it."""
    wide = max(map(len, STRETCHES))
    lines = []
    for number, (stretch, steps) in enumerate(STRETCHES.items()):
        way = [", ".join(room for room in step if room in house.rooms) for step in steps]
        rooms = {room for step in steps for room in step}
        nouns = [noun for noun in NOUNS for home, _ in house.definitions(noun) if home.room in rooms]
        lines += [f"{'|':>{wide}}", f"{'v':>{wide}}"] if number else []
        lines += [f"{stretch:>{wide}}   {' > '.join(filter(None, way))}"]
        lines += [f"{'':>{wide}}     {', '.join(nouns)}"] if nouns else []
    return lines


def _lines(house: House) -> list[str]:
    lines = []
    for stretch, steps in STRETCHES.items():
        lines += ["", f"| {stretch[0].upper()}{stretch[1:]} | |", "|---|---|"]
        for room in (room for step in steps for room in step if room in house.rooms):
            door = house.door(room)
            lines.append(f"| [{room}]({_address(house, door)}) | {_cell(sentence(door.text))} |")
    return lines


def _nouns(house: House) -> Iterator[str]:
    for noun in NOUNS:
        for home, node in house.definitions(noun):
            what = sentence(ast.get_docstring(node) or "")
            makers, takers = house.makers(home, noun), house.takers(home, noun)
            yield f"| [`{noun}`] | {_cell(what)} | {', '.join(makers)} | {', '.join(takers)} |"


def _rooms(house: House) -> Iterator[str]:
    for room in house.rooms:
        if inside := house.inside(room):
            door = house.door(room)
            files = ", ".join(f"`{name}`" for name in inside)
            yield f"\n### [{room}]({_address(house, door)})\n\n{door.text}\n\nIn it: {files}."


def _linked(text: str) -> str:
    """The text with every name in braces made a link."""
    return re.sub(r"\{(\w+)\}", r"[`\1`]", text)


def _links(house: House) -> Iterator[str]:
    """Where the links of the nouns and of the names in braces lead to."""
    for name in sorted({*NOUNS, *re.findall(r"\{(\w+)\}", BATCH + ANSWER)}):
        for home, _ in house.definitions(name):
            yield f"[`{name}`]: ../{home.path.relative_to(house.root).as_posix()}"


def _address(house: House, door: Module) -> str:
    """Of a room, from docs/: its folder, or its one file."""
    path = door.path.parent if door.path.name == "__init__.py" else door.path
    return f"../{path.relative_to(house.root).as_posix()}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
