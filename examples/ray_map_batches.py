"""Predict the images of a table on a cluster, with Ray Data: as many processes as there is room for, each with models
of its own, which stay loaded from one batch to the next.

    pip install 'engine[ray]'
    python examples/ray_map_batches.py models/ images.parquet answers/ [--processes 1] [--batch 256] [--gpus 0]

The table has a column `path` (which all machines can read); what else it has is kept. The answers are Parquet files
with the columns of predictions.parquet: prediction, confidence, status, and p:CLASS for each class. On one machine, or
where torchrun starts the ranks, `engine infer` does the same without Ray, goes on where it was killed, and leaves one
file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ray

from engine import Predictor


def predict(models: Path, table: Path, answers: Path, processes: int = 1, batch: int = 256, gpus: float = 0) -> None:
    """Answer for the images in `table` (Parquet, with a column `path`) and write Parquet files into `answers`."""
    ray.data.read_parquet(str(table)).map_batches(
        Predictor,
        fn_constructor_args=(str(models.absolute()),),
        batch_size=batch,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=processes),
        num_gpus=gpus,
    ).write_parquet(str(answers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder of fold models")
    parser.add_argument("table", type=Path, help="a Parquet table with a column path")
    parser.add_argument("answers", type=Path, help="folder for the answers")
    parser.add_argument("--processes", type=int, default=1, help="with models; fewer than the cores")
    parser.add_argument("--batch", type=int, default=256, help="images that a process is given at a time")
    parser.add_argument("--gpus", type=float, default=0, help="for each process")
    arguments = parser.parse_args()
    ray.init()
    if arguments.processes >= ray.cluster_resources()["CPU"]:
        parser.error("each process takes a core, and reading the table needs one, too: fewer --processes")
    predict(**vars(arguments))


if __name__ == "__main__":
    main()
