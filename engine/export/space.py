"""A Hugging Face Space: a folder that becomes a web page where anybody tries an exported file.

The page is a program of its own (space_files/app.py, copied as it is), because nothing of the engine is there: the file
says itself what it answers. Gradio is named in the Space's requirements and nowhere else; it wants older libraries than
the engine does.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from engine.errors import DataError
from engine.export.proof import Proof
from engine.export.runner import Exported
from engine.files import atomic_write, write_bytes, write_text
from engine.text import count

FILES = Path(__file__).resolve().parent / "space_files"
MODEL = "model.onnx"
_SDK = "6.31.0"  # of gradio; Spaces ask for it beside the requirements
_LARGE = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in ("onnx", "jpg", "png", "webp"))


def write_space(folder: Path, model: Path, title: str) -> list[Path]:
    """Write the Space that runs `model`, an exported .onnx that takes pixels, into `folder`: README.md, app.py,
    requirements.txt, the file, and the photos of its proof as examples. What it wrote, in order.

    A model and examples that are there are replaced. Raises CheckpointError for a file that is no export, DataError for
    one that the page cannot run, and when another text is where one of the Space's is to be: nothing is written then.
    """
    exported = Exported.open(model)
    if model.suffix != ".onnx" or exported.about["takes"] != "pixels":
        raise DataError(
            f"{model}: the page runs an ONNX file that takes pixels; make one with engine export RUN --to onnx, "
            "without --bytes"
        )
    texts = {
        "README.md": _readme(exported, title),
        "app.py": (FILES / "app.py").read_text("utf-8"),
        "requirements.txt": (FILES / "requirements.txt").read_text("utf-8"),
        ".gitattributes": _LARGE,
    }
    for name, text in texts.items():
        if (there := folder / name).exists() and there.read_text("utf-8", errors="replace") != text:
            raise DataError(f"{there} is there already, and says something else: move it away, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    if (folder / MODEL).resolve() != model.resolve():
        with atomic_write(folder / MODEL, model.stat().st_size) as path:
            shutil.copyfile(model, path)
    return [*(folder / name for name in texts), folder / MODEL, *_examples(folder / "examples", exported)]


def _examples(folder: Path, exported: Exported) -> list[Path]:
    """The photos that the file proves itself by, written into `folder`."""
    shots = Proof.from_json(exported.proof, exported.path).shots if exported.proof else ()
    written = []
    for number, shot in enumerate(shots):
        folder.mkdir(exist_ok=True)
        path = folder / f"{number}{Path(shot.name).suffix.lower() or '.jpg'}"
        write_bytes(path, shot.content)
        written.append(path)
    return written


def _readme(exported: Exported, title: str) -> str:
    about = exported.about
    header = {
        "title": title,
        "emoji": "\N{CAMERA}",
        "colorFrom": "blue",
        "colorTo": "green",
        "sdk": "gradio",
        "sdk_version": _SDK,
        "python_version": "3.12",
        "app_file": "app.py",
        "pinned": False,
    }
    models, classes = count(about["models"], "model"), count(exported.classes, "class", "classes")
    weights = "".join(f"* {one['backbone']}: {one['licence']}\n" for one in about["licence"]["weights"])
    return (
        "---\n"
        + "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in header.items())  # YAML, too
        + f"---\n\n# {title}\n\nA photo in, the likeliest of {classes} out: {models} in one "
        f"file, `{MODEL}` ({about['precision']}), made {about['made']}. The file holds the preprocessing, too; "
        "`app.py` runs it with onnxruntime and shows the answer with gradio.\n\n"
        "To try it here: `pip install -r requirements.txt`, then `python app.py`. To publish it: make a Gradio Space "
        "at https://huggingface.co/new-space, clone it, and push these files.\n\n"
        f"## Licences\n\n{about['licence']['engine']}\n\nWeights began as those of:\n\n{weights}"
    )
