"""What a folder of tries was made with, so that tries of different things are never put into one table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import RecipeError
from engine.files import write_text
from engine.train.run import changes_between


def claim(path: Path, recipe: Mapping[str, Any], **more: Any) -> None:
    """Write into the file `path` what its folder is used with: a recipe's tables and `more`. When it is there already,
    raise RecipeError, naming what differs, unless it says the same; keys that do not touch learning may differ."""
    now = json.loads(json.dumps({"recipe": recipe, **more}))
    if path.is_file():
        before = json.loads(path.read_text("utf-8"))
        changes = list(changes_between(before["recipe"], now["recipe"]))
        changes += [name.replace("_", " ") for name in more if before.get(name) != now[name]]
        if changes:
            raise RecipeError(
                f"{path.parent} holds tries that differ in {'; '.join(changes)}. Choose another folder with --out DIR, "
                "or remove it"
            )
    write_text(path, json.dumps(now, ensure_ascii=False, indent=1) + "\n")
