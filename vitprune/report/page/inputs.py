"""The tables that the stages wrote, as the page takes them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vitprune.errors import CheckpointError

PLOTS = ("train", "gradient_flow", "faithfulness", "prune", "finetune_baseline", "finetune_pruned")
CLEANING = ("manifest", "near_duplicates", "quality")


def read_tables(plots: Path, data: Path) -> dict[str, pd.DataFrame]:
    """The tables that the stages and cleaning wrote, by their names, as far as they are there.

    Raises CheckpointError for a file that is no CSV.
    """
    paths = {name: plots / f"{name}.csv" for name in PLOTS} | {name: data / f"{name}.csv" for name in CLEANING}
    tables = {}
    for name, path in paths.items():
        if not path.exists():
            continue
        try:
            tables[name] = pd.read_csv(path, keep_default_na=name in PLOTS)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path}: not readable as CSV ({reason}); run the stage that writes it") from None
    return tables
