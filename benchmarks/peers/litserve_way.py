"""LitServe's side of a comparison of servers, as its documentation puts it together: a LitAPI that decodes a request,
is handed batches, and encodes each answer. The model is the engine's own `Predictor`, and so are the answers.

Run in an environment that has litserve: `python benchmarks/peers/litserve_way.py RUN --port 8001`. LitServe reads the
type of a request off the annotation, which therefore is no text: no `from __future__ import annotations` here.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import litserve
import torch
from fastapi import UploadFile

from engine.predict.predictor import Predictor


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Photos to their classes with probabilities."""

    def __init__(self, run: str, sets: Sequence[str], threads: int, **options: Any) -> None:
        super().__init__(**options)
        self._run, self._sets, self._threads = run, sets, threads

    def setup(self, device: str) -> None:
        torch.set_num_threads(self._threads)
        self._predictor = Predictor(self._run, sets=self._sets, device="cpu")

    def decode_request(self, request: UploadFile) -> bytes:
        return request.file.read()

    def predict(self, photos: list[bytes]) -> list[dict[str, float]]:
        answers = self._predictor(photos)
        return [dict(zip(self._predictor.classes, row, strict=True)) for row in answers.probabilities_NC.tolist()]

    def encode_response(self, output: dict[str, float]) -> dict[str, Any]:
        return {"top": sorted(output.items(), key=lambda item: -item[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--deadline-ms", type=float, default=5.0)
    parser.add_argument("--timeout-s", type=float, default=600.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--set", action="append", default=[], dest="sets")
    chosen = parser.parse_args()
    api = Api(
        chosen.run, chosen.sets, chosen.threads, max_batch_size=chosen.batch, batch_timeout=chosen.deadline_ms / 1000
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=chosen.timeout_s)
    server.run("127.0.0.1", chosen.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
