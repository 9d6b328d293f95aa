"""``vitprune compare``: what two circuits of one model share."""

import logging
from pathlib import Path
from typing import Annotated

import typer


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a circuit that the acdc command wrote.")],
    second: Annotated[Path, typer.Argument(help="Folder of another circuit of the same model.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write, with a row for each edge of either.")] = None,
) -> None:
    """Count the edges that two circuits share and those that each has alone, layer by layer."""
    import torch

    from vitprune.circuit.comparison import compare as compare_circuits
    from vitprune.commands.inputs import load_circuit
    from vitprune.commands.terminal import show_table
    from vitprune.report.comparison import comparison_table, write_comparison
    from vitprune.storage import check_targets

    if out is not None:
        check_targets(files=[out])
    circuits = load_circuit(first, torch.device("cpu")), load_circuit(second, torch.device("cpu"))
    compared = compare_circuits(*circuits)
    show_table(comparison_table(compared, circuits[0], (str(first), str(second))))
    if out is not None:
        write_comparison(out, compared, *circuits)
        logging.getLogger(__name__).info("wrote %s", out)
