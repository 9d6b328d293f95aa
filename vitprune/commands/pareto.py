"""``vitprune pareto``: accuracy against latency over several experiments."""

from pathlib import Path
from typing import Annotated

import typer


def pareto(
    experiments: Annotated[Path, typer.Argument(help="Table that dvc exp show --csv wrote.")],
    out: Annotated[Path, typer.Option(help="PNG to write; the figures go beside it as CSV.")] = Path(
        "plots/pareto.png"
    ),
    batch_size: Annotated[int, typer.Option(min=1, help="One of evaluate.timing_batch_sizes.")] = 128,
) -> None:
    """Draw test accuracy against inference time, each experiment a point, with the unpruned baseline."""
    from vitprune.errors import CheckpointError
    from vitprune.evaluation.pareto import read_experiments
    from vitprune.report.pareto import draw_pareto, write_pareto
    from vitprune.storage import check_targets

    check_targets(files=[out, out.with_suffix(".csv")])
    found = read_experiments(experiments, batch_size)
    if not found:
        raise CheckpointError(f"{experiments}: no experiment in it is finished; run some with dvc exp run")
    draw_pareto(out, found, batch_size)
    write_pareto(out.with_suffix(".csv"), found)
