"""fastai's side of a fine-tuning comparison, as its book and documentation have it; run by a Python that has fastai.

    PYTHON benchmarks/peers/fastai_way.py < task.json

Knows nothing of the engine, whose environment need not be fastai's: it is given a task as JSON on stdin, writes its
answers about the test photos as CSV (id, then a column a class), and its seconds as the last line of its output.

`vision_learner` and `fine_tune` with their defaults: photos presized to twice the size, then cropped, warped, turned,
lit and mirrored on the batch (`aug_transforms`); one epoch with the body frozen, the others with rates that rise with
depth, one cycle each; the best epoch by validation loss is kept.
"""

from __future__ import annotations

import csv
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

MIN_SCALE = 0.75  # of a crop's area: the documentation's value for presizing


def processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run(task: dict[str, Any]) -> dict[str, Any]:
    import fastai.callback.schedule  # noqa: F401  (gives learners fine_tune)
    import torch
    from fastai.callback.tracker import SaveModelCallback
    from fastai.data.transforms import get_image_files
    from fastai.torch_core import set_seed
    from fastai.vision.augment import Resize, aug_transforms
    from fastai.vision.data import ImageDataLoaders
    from fastai.vision.learner import vision_learner

    torch.set_num_threads(task["threads"])
    set_seed(task["seed"])
    began_s, worked_s = time.perf_counter(), processor_seconds()
    dls = ImageDataLoaders.from_folder(
        task["split"],
        train="train",
        valid="validation",
        item_tfms=Resize(2 * task["size"]),
        batch_tfms=aug_transforms(size=task["size"], min_scale=MIN_SCALE),
        bs=task["batch"],
        num_workers=task["workers"],
        device=torch.device("cpu"),
    )
    learner = vision_learner(
        dls, task["backbone"], path=task["output"], pretrained_cfg_overlay={"file": task["weights"]}
    )
    keep = SaveModelCallback(monitor="valid_loss")
    with learner.no_logging(), learner.no_bar():
        learner.fine_tune(task["epochs"] - 1, cbs=keep)
    total_s, cpu_s = time.perf_counter() - began_s, processor_seconds() - worked_s
    files = get_image_files(task["test"])
    with learner.no_bar():
        probabilities_NC, _ = learner.get_preds(dl=dls.test_dl(files))
    with Path(task["output"], "answers.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *dls.vocab])
        writer.writerows(
            [path.name, *map(repr, row_C)] for path, row_C in zip(files, probabilities_NC.tolist(), strict=True)
        )
    return {"total_s": total_s, "cpu_s": cpu_s, "fastai": _version()}


def _version() -> str:
    import fastai

    return str(fastai.__version__)


if __name__ == "__main__":
    print(json.dumps(run(json.load(sys.stdin))))
