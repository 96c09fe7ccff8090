"""The track section: experiment trackers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.recipe.sections.base import PathText, Section


class TrackSection(Section):
    """Where a run can be followed and compared with others, beside its own log.jsonl. An epoch's number is that of the
    log, from 0; a tracker that cannot be reached is caught up later."""

    tensorboard: bool = Field(
        True, description="Write TensorBoard's event files into the folder tensorboard of output."
    )
    wandb: str = Field(
        "",
        description="Weights & Biases: the project, or entity/project; one run a fold, in one group. Empty: not used. Needs the extra `track`.",
    )
    wandb_mode: Literal["online", "offline"] = Field(
        "online",
        description="offline: written into the folder wandb of output, for `wandb sync`. The environment's WANDB_MODE goes first.",
    )
    mlflow: PathText = Field(
        "",
        description="MLflow: a tracking URI such as http://host:5000 or sqlite:///mlruns.db, or a folder, which gets a database; a run with one run a fold in it. Empty: not used. Needs the extra `track`.",
    )
    mlflow_experiment: str = Field("engine", min_length=1, description="The experiment's name in MLflow.")
