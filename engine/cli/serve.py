"""`engine serve`: models answer over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli.common import FilePath, set_option, tell


@click.command(
    epilog="""\b
Examples:
  engine serve models/
  engine serve model.onnx --host 0.0.0.0 --port 80
  engine serve models/ --batch 16 --deadline-ms 20 --queue 64 --timeout-s 10
  engine serve models/0 --set predict.tta=1
  curl -F photos=@a.jpg -F photos=@b.jpg 'http://127.0.0.1:8000/predict?top=3'
  curl --data-binary @a.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/predict

\b
Serves:
  /             a page: drop photos, or take them with the camera
  /predict      POST one photo or many: a form, base64 in JSON, or the body itself
  /heatmap      POST a photo: where the model looked
  /health, /ready, /metrics, /model, /openapi.json

SIGTERM and Ctrl-C finish what was accepted, refuse what is new, and end with 0. There is no password and no TLS:
beyond this machine, put a proxy before it that has both.
"""
)
@click.argument("model", type=FilePath(exists=True), metavar="RUN_OR_EXPORT")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Photos answered together.")
@click.option(
    "--deadline-ms", type=click.FloatRange(0), default=5.0, show_default=True, help="How long a photo waits for others."
)
@click.option(
    "--queue", type=click.IntRange(1), default=256, show_default=True, help="Photos that may wait; beyond them: 503."
)
@click.option(
    "--max-mb", type=click.FloatRange(0, min_open=True), default=20.0, show_default=True, help="Of a photo, in bytes."
)
@click.option(
    "--max-megapixels", type=click.FloatRange(0, min_open=True), default=100.0, show_default=True, help="Of a photo."
)
@click.option("--max-photos", type=click.IntRange(1), default=64, show_default=True, help="In a request.")
@click.option(
    "--memory-mb",
    type=click.FloatRange(1),
    default=1000.0,
    show_default=True,
    help="Bytes of all requests that are held at a time.",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Of a request: 408 while it is sent, 504 while it waits.",
)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes named in an answer.")
@click.option("--allow-url", is_flag=True, help="Also fetch photos from public addresses that requests name.")
@click.option("--log", is_flag=True, help="A line of JSON to stderr for each request.")
@set_option
def serve(
    model: Path,
    host: str,
    port: int,
    batch: int,
    deadline_ms: float,
    queue: int,
    max_mb: float,
    max_megapixels: float,
    max_photos: int,
    memory_mb: float,
    timeout_s: float,
    top: int,
    allow_url: bool,
    log: bool,
    sets: tuple[str, ...],
) -> None:
    """Answer photos over HTTP with the models of a run, of one fold, or of an exported file.

    Answers are those of `engine infer`, to the last bit, whatever else is asked at the time.
    """
    from engine.serve.batcher import Shape
    from engine.serve.model import open_model
    from engine.serve.run import serve as run
    from engine.serve.settings import Settings
    from engine.serve.uploads import Limits

    megabyte = 1_000_000
    if max_mb > memory_mb:
        raise click.UsageError(f"--memory-mb {memory_mb:g}: not even one photo of --max-mb {max_mb:g} would be taken")
    if deadline_ms >= 1000 * timeout_s:
        raise click.UsageError(f"--deadline-ms {deadline_ms:g}: a photo would wait for longer than --timeout-s allows")
    settings = Settings(
        shape=Shape(batch, deadline_ms / 1000, queue, 2e6 * max_megapixels),
        limits=Limits.of(round(max_mb * megabyte), min(max_photos, queue), round(memory_mb * megabyte)),
        pixels=max_megapixels * 1e6,
        timeout_s=timeout_s,
        top=top,
        allow_url=allow_url,
        memory_bytes=round(memory_mb * megabyte),
        log=log,
    )
    opened = open_model(model, sets)
    tell(*opened.about.get("notices", ()))
    run(opened, settings, host, port, lambda address: click.echo(f"{model} at {address}", err=True))
