"""`engine demo`: a page on which an exported file is tried, for a Hugging Face Space."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli.common import FilePath


@click.command(
    epilog="""\b
Examples:
  engine demo --space space/ --model models/export/model.onnx
  engine demo --space space/ --model model.onnx --title "Which bag is it?"
"""
)
@click.option("--space", type=FilePath(file_okay=False), required=True, help="The folder to write, new or a clone.")
@click.option("--model", type=FilePath(dir_okay=False), required=True, help="A file that engine export made, .onnx.")
@click.option("--title", default="Image classifier", show_default=True, help="What the page is called.")
def demo(space: Path, model: Path, title: str) -> None:
    """Write a Hugging Face Space: a page that shows what an exported file answers about anybody's photos.

    The Space needs gradio and onnxruntime, which its requirements.txt names, and no engine. Examples on the page are
    the photos that the file proves itself by: training photos made small, unless it was exported with --drawn. Look at
    them before you publish it.
    """
    from engine.export.space import write_space

    for path in write_space(space, model, title):
        click.echo(str(path))
