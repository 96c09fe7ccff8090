"""What a server counts, for Prometheus, in a registry of its own: two servers in one process do not add up."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PHOTOS = (1, 2, 4, 8, 16, 32, 64, 128)
PATHS = ("/predict", "/heatmap")
"""Requests are counted by these, and all others together: a path is text from outside."""


class Gauges:
    """`waiting`: how many photos wait; `ready`: whether the model is."""

    def __init__(self, waiting: Callable[[], float], ready: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        self._requests = Counter("engine_requests", "Requests, by path and status.", ("path", "status"), registry=own)
        self._seconds = Histogram(
            "engine_request_seconds", "From a request's head to its answer.", ("path",), buckets=_SECONDS, registry=own
        )
        self._open = Gauge("engine_requests_open", "Requests that are being answered.", registry=own)
        self._batch = Histogram("engine_batch_photos", "Photos in a batch.", buckets=_PHOTOS, registry=own)
        self._batch_seconds = Histogram("engine_batch_seconds", "To answer a batch.", buckets=_SECONDS, registry=own)
        self._photos = Counter("engine_photos", "Photos that were answered.", registry=own)
        self._faults = Counter("engine_photo_faults", "Photos that were not, by kind.", ("kind",), registry=own)
        Gauge("engine_queue_photos", "Photos that wait for a batch.", registry=own).set_function(waiting)
        Gauge("engine_ready", "1 when the model is loaded and warm.", registry=own).set_function(ready)
        ProcessCollector(registry=self._registry)

    def began(self) -> None:
        self._open.inc()

    def ended(self, path: str, status: int, seconds: float) -> None:
        self._open.dec()
        path = path if path in PATHS else "other"
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, photos: int, seconds: float) -> None:
        self._batch.observe(photos)
        self._batch_seconds.observe(seconds)

    def answered(self) -> None:
        self._photos.inc()

    def fault(self, kind: str) -> None:
        self._faults.labels(kind).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
