"""The results of the evaluate stage, for the commands that show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitprune.errors import CheckpointError
from vitprune.evaluation.table import Table, model_table
from vitprune.storage import read_json


def open_results(metrics: Path, timing: Path) -> tuple[dict[str, Any], dict[str, Any], Table]:
    """The scores, the timings, and the table of models that they make.

    Raises CheckpointError if a file is missing or does not hold the figures of an evaluation.
    """
    scores, times = read_json(metrics), read_json(timing)
    try:
        return scores, times, model_table(scores, times)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{metrics}, {timing}: not the figures of an evaluation ({error!r}); run the evaluate stage again"
        ) from error
