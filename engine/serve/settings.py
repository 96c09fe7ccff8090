"""What a server is told beside its model."""

from __future__ import annotations

import dataclasses

from engine.serve.batcher import Shape
from engine.serve.uploads import Limits


@dataclasses.dataclass(frozen=True)
class Settings:
    """How photos gather (`shape`), what a request may hold (`limits`), and the rest.

    pixels: of a photo, at most. timeout_s: of a request, from its head to its answer. top: classes named in an answer
    unless the request says how many. memory_bytes: of bodies of all requests together. log: a line of JSON to stderr
    for each request.
    """

    shape: Shape = dataclasses.field(default_factory=Shape)
    limits: Limits = dataclasses.field(default_factory=Limits)
    pixels: float = 100e6
    timeout_s: float = 30.0
    top: int = 5
    allow_url: bool = False
    memory_bytes: int = 1_000_000_000
    log: bool = False
