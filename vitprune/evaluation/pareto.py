"""Accuracy against latency over several experiments, and which of them no other beats in both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vitprune.errors import CheckpointError

MODEL, CONTROL = "upgraded_baseline_pruned", "upgraded_baseline"
"""What an experiment ends in, and the unpruned model that was trained for as long."""
KNOBS = ("prune.target_speedup", "prune.target_kl", "acdc.tau", "acdc.method", "finetune.epochs", "compute.seed")
"""Params that name an experiment, where they differ between experiments."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One pruned model: ``accuracy`` on the test images, ``speedup`` over its baseline, measured side by side."""

    name: str
    accuracy: float
    speedup: float
    control_accuracy: float


def read_experiments(path: Path, batch_size: int) -> list[Experiment]:
    """The finished experiments in a table that ``dvc exp show --csv`` wrote, without doubles.

    Raises CheckpointError if the file is no such table, or no experiment in it was timed at ``batch_size``.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: not readable as CSV ({reason}); write it with: dvc exp show --csv > {path}"
        ) from None
    wanted = {
        "accuracy": f"{MODEL}.accuracy",
        "control_accuracy": f"{CONTROL}.accuracy",
        "speedup": f"{MODEL}.batch_{batch_size}.speedup",
    }
    columns = {name: _column(table, key) for name, key in wanted.items()}
    if missing := [wanted[name] for name, column in columns.items() if column is None]:
        raise CheckpointError(
            f"{path}: has no column {missing[0]}; write it with dvc exp show --csv after dvc repro, and choose a batch "
            "size of evaluate.timing_batch_sizes"
        )
    found = table.rename(columns={column: name for name, column in columns.items()}).dropna(subset=list(wanted))
    knobs = [knob for knob in KNOBS if knob in found and found[knob].nunique(dropna=False) > 1]
    experiments = [
        Experiment(
            name=_name(row, knobs),
            accuracy=float(row["accuracy"]),
            speedup=float(row["speedup"]),
            control_accuracy=float(row["control_accuracy"]),
        )
        for _, row in found.iterrows()
    ]
    # The workspace is usually one of the experiments, too.
    return list(dict.fromkeys(experiments))


def pareto_front(experiments: list[Experiment]) -> list[Experiment]:
    """Those that no other beats in speed and accuracy, from slow to fast."""
    front: list[Experiment] = []
    for each in sorted(experiments, key=lambda each: (-each.speedup, -each.accuracy)):
        if not front or each.accuracy > front[-1].accuracy:
            front.append(each)
    return front[::-1]


def _column(table: pd.DataFrame, key: str) -> str | None:
    """DVC puts the file before a name that stands in several files."""
    return next((column for column in map(str, table) if column == key or column.endswith(f":{key}")), None)


def _name(row: pd.Series, knobs: list[str]) -> str:
    """The params that set an experiment apart, or else what DVC calls it."""
    settings = [
        f"{knob.partition('.')[2]}={value if isinstance(value, str) else f'{value:g}'}"
        for knob in knobs
        if pd.notna(value := row[knob])
    ]
    called = [str(row[column]) for column in ("Experiment", "rev") if column in row and pd.notna(row[column])]
    return ", ".join(settings) or called[0]
