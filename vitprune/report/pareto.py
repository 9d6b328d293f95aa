"""Accuracy against latency over several experiments: which of them no other beats in both, as a plot and as CSV."""

from __future__ import annotations

import csv
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.ticker import PercentFormatter

from vitprune.errors import CheckpointError
from vitprune.evaluation.models import UPGRADED_BASELINE, UPGRADED_BASELINE_PRUNED
from vitprune.evaluation.table import Table
from vitprune.report.drawing import drawn, put_labels
from vitprune.storage import atomic_file

logger = logging.getLogger(__name__)

TARGETS = ("prune.target_speedup", "prune.target_kl")
OF_THE_CIRCUIT = ("acdc.tau", "acdc.method")
"""Params that decide what is cut if there is no target."""
KNOBS = (*TARGETS, *OF_THE_CIRCUIT, "finetune.epochs", "compute.seed")
"""Params that name an experiment, where they differ between experiments."""
EPOCHS = "finetune.epochs"
FINISHED = ("Success", "-", "")
"""What DVC writes as the state of an experiment that has ended well; commits and the workspace have none."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The pruned model of one experiment, and the unpruned model that was trained for as long.

    ``accuracy`` is that on the test images, ``speedup`` is relative to the baseline timed beside it. ``epochs`` are
    those of fine-tuning, None if they are not known.
    """

    name: str
    accuracy: float
    speedup: float
    control_accuracy: float
    epochs: int | None = None


def read_experiments(path: Path, batch_size: int) -> list[Experiment]:
    """The finished experiments in a table that ``dvc exp show --csv`` wrote, each of them once.

    A log line says what is left out: what has not ended well, and what was timed on another machine or with another
    number of threads than the first, which in a table of DVC's is the workspace. Raises CheckpointError if the file is
    not such a table, or if no experiment in it was finished and timed at ``batch_size``.
    """
    table = _read_table(path)
    columns = _figure_columns(path, table, batch_size)
    for column in columns.values():
        table[column] = pd.to_numeric(table[column], errors="coerce")
    reasons = [_reason_to_leave_out(row, columns) for _, row in table.iterrows()]
    _leave_out_other_machines(table, reasons)
    left_out = Counter(filter(None, reasons))
    if left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        logger.info("%s: experiments left out: %s", path, counts)
    finished = table[[reason is None for reason in reasons]]
    if finished.empty:
        raise CheckpointError(f"{path}: has no finished experiment; run dvc repro or dvc exp run, and write it again")
    knobs = [knob for knob in KNOBS if knob in finished]
    different = [knob for knob in knobs if finished[knob].nunique(dropna=False) > 1]
    # The workspace, a branch and a commit may all be one experiment; the one that DVC gave a name comes first.
    named = finished.sort_values("Experiment", kind="stable") if "Experiment" in finished else finished
    named = named.drop_duplicates(subset=[*columns.values(), *knobs])
    experiments = {
        index: Experiment(
            name=_name(row, different, number),
            epochs=int(row[EPOCHS]) if EPOCHS in row and pd.notna(row[EPOCHS]) else None,
            **{name: float(row[column]) for name, column in columns.items()},
        )
        for number, (index, row) in enumerate(named.iterrows(), start=1)
    }
    return [experiments[index] for index in finished.index if index in experiments]


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: not readable as CSV ({reason}); write it with: dvc exp show --csv > {path}"
        ) from None


def _figure_columns(path: Path, table: pd.DataFrame, batch_size: int) -> dict[str, str]:
    """The columns of the figures of an ``Experiment``."""
    pruned, control = UPGRADED_BASELINE_PRUNED.name, UPGRADED_BASELINE.name
    # Beside each, what versions before metrics/summary.json called it.
    wanted = {
        "accuracy": ("pruned.accuracy", f"{pruned}.accuracy"),
        "control_accuracy": ("control.accuracy", f"{control}.accuracy"),
        "speedup": (f"speedup.batch_{batch_size}", f"{pruned}.batch_{batch_size}.speedup"),
    }
    columns = {
        name: column
        for name, keys in wanted.items()
        if (column := next(filter(None, (_column(table, key) for key in keys)), None)) is not None
    }
    if missing := [keys[0] for name, keys in wanted.items() if name not in columns]:
        raise CheckpointError(
            f"{path}: has no column {missing[0]}; write it with dvc exp show --csv after dvc repro, and choose a batch "
            "size of evaluate.timing_batch_sizes"
        )
    return columns


def _reason_to_leave_out(row: pd.Series, columns: dict[str, str]) -> str | None:
    """Why an experiment is not drawn. One that failed or still runs has the figures of the commit it started from."""
    state = row.get("State")
    if pd.notna(state) and str(state) not in FINISHED:
        return str(state).lower()
    accuracy, control, speedup = (row[columns[name]] for name in ("accuracy", "control_accuracy", "speedup"))
    if not (0 <= accuracy <= 1 and 0 <= control <= 1 and 0 < speedup < math.inf):
        return "without figures"
    return None


def _leave_out_other_machines(table: pd.DataFrame, reasons: list[str | None]) -> None:
    """Add reasons for experiments that were timed elsewhere than the first of those that are left."""
    column = _column(table, "machine")
    if column is None:
        return
    first = next((machine for machine, reason in zip(table[column], reasons, strict=True) if reason is None), None)
    for number, machine in enumerate(table[column]):
        if reasons[number] is None and pd.notna(machine) and pd.notna(first) and machine != first:
            reasons[number] = "timed on another machine"


def pareto_front(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Those that no other beats in speed and accuracy, from slow to fast."""
    front: list[Experiment] = []
    for experiment in sorted(experiments, key=lambda experiment: (-experiment.speedup, -experiment.accuracy)):
        if not front or experiment.accuracy > front[-1].accuracy:
            front.append(experiment)
    return front[::-1]


def write_pareto(path: Path, experiments: Sequence[Experiment]) -> None:
    """Write one row for each experiment, and whether it is on the front."""
    front = pareto_front(experiments)
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["experiment", "speedup", "accuracy", "unpruned_accuracy", "is_on_front"])
        for experiment in sorted(experiments, key=lambda experiment: experiment.speedup):
            figures = [experiment.speedup, experiment.accuracy, experiment.control_accuracy]
            writer.writerow([experiment.name, *figures, experiment in front])


def experiments_table(experiments: Sequence[Experiment], batch_size: int) -> Table:
    """A row for each experiment, from slow to fast; a star for those that no other beats in speed and accuracy."""
    front = pareto_front(experiments)
    rows = [
        (
            f"{experiment.name}{' *' if experiment in front else ''}",
            f"{experiment.speedup:.2f}×",
            f"{100 * experiment.accuracy:.2f} %",
            f"{100 * experiment.control_accuracy:.2f} %",
        )
        for experiment in sorted(experiments, key=lambda experiment: experiment.speedup)
    ]
    return Table(
        headers=("experiment", f"speed-up, batch {batch_size}", "accuracy", "of its control"),
        rows=tuple(rows),
        caption="*: none is faster and at least as accurate. Control: the baseline, fine-tuned for as long.",
    )


def draw_pareto(path: Path, experiments: Sequence[Experiment], batch_size: int) -> None:
    """Draw the experiments, their front, and the unpruned models that were trained for as long, as a PNG."""
    with drawn(path, (7, 4.5)) as figure:
        axes = figure.subplots()
        controls = sorted({(experiment.control_accuracy, experiment.epochs or 0) for experiment in experiments})
        budgets = {epochs for _, epochs in controls}
        axes.plot([1] * len(controls), [accuracy for accuracy, _ in controls], "s", color="black", label="control")
        axes.plot(*_points(experiments), "o", label="pruned")
        front = pareto_front(experiments)
        axes.plot(*_points(front), "o-", linewidth=1, markerfacecolor="none", markersize=12, label="none beats these")
        axes.set_xlim(0, 1.15)
        axes.margins(y=0.25)
        figure.draw_without_rendering()
        labels = [
            (f"{experiment.name}\n{experiment.speedup:.2f}×", 1 / experiment.speedup, experiment.accuracy)
            for experiment in experiments
        ]
        if len(budgets) > 1:
            labels += [(f"{epochs} epochs", 1.0, accuracy) for accuracy, epochs in controls]
        put_labels(axes, labels)
        axes.set(xlabel=f"time of a batch of {batch_size}, relative to the baseline", ylabel="test accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.grid(alpha=0.3)
        axes.set_title("Pruned models and their controls: the baseline, fine-tuned for as long", fontsize=10)
        figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=9)


def _points(experiments: Sequence[Experiment]) -> tuple[list[float], list[float]]:
    return [1 / experiment.speedup for experiment in experiments], [experiment.accuracy for experiment in experiments]


def _column(table: pd.DataFrame, key: str) -> str | None:
    """The column of a metric or param. DVC puts the file before a name that stands in several files."""
    return next((column for column in map(str, table) if column == key or column.endswith(f":{key}")), None)


def _name(row: pd.Series, knobs: list[str], number: int) -> str:
    """The params in which an experiment differs, or else what DVC calls it, or else its number in the table.

    What decides about the circuit says nothing of a model that was pruned to a target.
    """
    if any(pd.notna(row.get(target)) for target in TARGETS):
        knobs = [knob for knob in knobs if knob not in OF_THE_CIRCUIT]
    settings = [
        f"{knob.partition('.')[2]}={value if isinstance(value, str) else f'{value:g}'}"
        for knob in knobs
        if pd.notna(value := row[knob])
    ]
    names = [str(row[column]) for column in ("Experiment", "rev") if column in row and pd.notna(row[column])]
    return ", ".join(settings) or next(iter(names), f"experiment {number}")
