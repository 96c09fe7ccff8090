"""docs/recipes.md, made from the sections: `python -m engine.recipe.document > docs/recipes.md`.

A test holds the file to what this makes, so no key goes undocumented and none is documented that is gone.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import tomlkit
from pydantic import BaseModel

from engine.recipe import schema
from engine.recipe.sections import Recipe

EXAMPLE = """\
name = "cars"
output = "models/cars"

[data]
train = "data/train"              # one sub-folder per class
test = "data/test"
folds.count = 4

[model]
backbone = "convnext_tiny.in12k_ft_in1k"

[augment]
color.p = 0.5

[[augment.mix]]
mixup = 0.2
cutmix = 1.0

[[stage]]                         # small images first
size = 256
batch = 64
epochs = 5
lr = 1e-4

[[stage]]                         # then large ones
size = [384, 512]                 # height, width
batch = 16
epochs = 3
lr = 2e-5
"""

INTRODUCTION = f"""\
# Recipes

A recipe is a TOML file that says everything about a run. Only `[[stage]]` and what a stage needs must be given; every
other key has a default. `engine train RECIPE --dry-run` prints a recipe with all of them filled in.

```toml
{EXAMPLE}```

Keys that do not exist, values of the wrong type and values out of range are refused, all of them at once, with the line,
what is allowed and the nearest key that exists. Types are strict: `epochs = "3"` is text and not a number.

## Changing values from the command line

`--set section.key=value`, as often as needed and applied in that order, on every command that reads a recipe:

| Write | To |
|---|---|
| `--set train.ema=0.99` | change a value |
| `--set data.folds.count=3` | change one deeper down |
| `--set stage.0.size=64` | change it in the first stage; stages count from 0 |
| `--set 'stage.*.epochs=2'` | change it in all stages |
| `--set 'stage=[{{size=64, batch=16, epochs=2, lr=1e-3}}]'` | replace a whole list or table |
| `--set 'augment.mix=[]'` | empty a list |
| `--set data.train=photos/train` | text needs no quotes of its own |

Values are written as in TOML and taken as text where they are no TOML. Quote what the shell would otherwise read itself:
`*`, `[`, `{{`, spaces.
"""


def document() -> str:
    """The text of docs/recipes.md."""
    parts = [INTRODUCTION, "## Keys", "", "At the top of the file, before any section:", *_table(Recipe)]
    documented: dict[type[BaseModel], str] = {}
    for key in schema.walk():
        if key.section is None:
            continue
        title = ".".join(part for part in key.path if isinstance(part, str))
        title = f"[[{title}]]" if key.is_list_of_sections else f"[{title}]"
        parts += ["", f"### `{title}`", ""]
        if key.section in documented:
            parts += [f"{key.description} The keys of `{documented[key.section]}`."]
        else:
            documented[key.section] = title
            parts += [inspect.getdoc(key.section) or key.description]
            parts += ["", key.description] if key.is_list_of_sections else []
            parts += _table(key.section)
    return "\n".join(parts) + "\n"


def _table(section: type[BaseModel]) -> list[str]:
    """A Markdown table of the values directly in `section`; [] when it holds sections alone."""
    rows = []
    for name, field in section.model_fields.items():
        key = schema.Key((name,), field)
        if key.section is None:
            kind = f"{key.type}, {key.allowed}" if key.allowed else key.type
            rows.append(f"| `{name}` | {_cell(kind)} | {_default(key)} | {_cell(key.description)} |")
    return ["", "| Key | Value | Default | Meaning |", "|---|---|---|---|", *rows] if rows else []


def _default(key: schema.Key) -> str:
    if key.required:
        return "must be given"
    return "none" if key.default is None else f"`{_cell(_toml(key.default))}`"


def _toml(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if "." in f"{value:.6g}" or "e" in f"{value:.6g}" else f"{value:.1f}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return tomlkit.item(value).as_string()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.stdout.write(document())
