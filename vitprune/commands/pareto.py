"""``vitprune pareto``: plot accuracy against latency over several experiments."""

import logging
from pathlib import Path
from typing import Annotated

import typer


def pareto(
    experiments: Annotated[Path, typer.Argument(help="CSV file that dvc exp show --csv wrote.")],
    out: Annotated[Path, typer.Option(help="PNG file to write. The figures go beside it as CSV.")] = Path(
        "plots/pareto.png"
    ),
    batch_size: Annotated[int, typer.Option(min=1, help="One of evaluate.timing_batch_sizes.")] = 128,
) -> None:
    """Draw test accuracy against inference time, one point for each experiment, beside the unpruned baseline."""
    from vitprune.commands.terminal import show_table
    from vitprune.errors import CheckpointError, StorageError
    from vitprune.report.pareto import draw_pareto, experiments_table, read_experiments, write_pareto
    from vitprune.storage import check_targets

    figures = out.with_suffix(".csv")
    if figures == out:
        raise StorageError(f"{out}: is where the figures go as CSV; give a name that ends in .png")
    check_targets(files=[out, figures])
    finished = read_experiments(experiments, batch_size)
    if not finished:
        raise CheckpointError(f"{experiments}: no experiment in it is finished; run some with dvc exp run")
    draw_pareto(out, finished, batch_size)
    write_pareto(figures, finished)
    show_table(experiments_table(finished, batch_size))
    logging.getLogger(__name__).info("wrote %s and %s", out, figures)
