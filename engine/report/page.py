"""Pages in one file that needs no network: pictures stand in the page itself, because a link to a user's file would
break as soon as the page is sent to somebody."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image

from engine.files import write_text


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill in a Jinja template of HTML and write it, whole or not at all. Text from outside is escaped."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    write_text(path, environment.from_string(template).render(**values))


def data_url(image: Image.Image, quality: int) -> str:
    """The picture as a JPEG inside the page that shows it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
