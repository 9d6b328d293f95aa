"""``vitprune prune``: the compact model that a circuit needs, or that meets a target of speed or KL."""

from pathlib import Path
from typing import Annotated

import typer

from vitprune.commands.options import (
    BaselineFolder,
    CircuitFolder,
    DataFolder,
    LatencyFile,
    MetricsFile,
    OutFolder,
    ParamsFile,
)


def prune(
    params: ParamsFile,
    data: DataFolder,
    baseline: BaselineFolder,
    circuit: CircuitFolder,
    out: OutFolder,
    metrics: MetricsFile,
    trace: Annotated[Path, typer.Option(help="CSV to write: KL and predicted milliseconds after each move.")],
    latency: LatencyFile,
) -> None:
    """Cut heads, neurons and sublayers out of the weights. The circuit is read only where no target is set."""
    from vitprune.circuit import Circuit
    from vitprune.commands.inputs import load_for, open_params
    from vitprune.commands.terminal import speed_progress
    from vitprune.data import load_packed
    from vitprune.distributed import world
    from vitprune.model import save_model
    from vitprune.pruning.measured import Measurements
    from vitprune.pruning.speed import write_moves
    from vitprune.recipes import prune as recipe
    from vitprune.storage import check_targets, write_json

    options, device = open_params(params)
    check_targets(files=[metrics, trace, latency], folders=[out])
    packed = load_packed(data)
    first = options.prune.of_round(1, options.finetune.rounds)
    found = None if first.has_target else Circuit.load(circuit, device)
    saved = load_for(baseline if found is None else circuit / "model", options, packed, device)
    with speed_progress("prune") as on_progress:
        small = recipe.prune(
            packed, saved, found, first, device, known=Measurements.read(latency), on_progress=on_progress
        )
    if not world().is_main:
        return
    save_model(out, small.saved)
    write_moves(trace, small.trace)
    write_json(metrics, small.metrics)
    small.measurements.write(latency)
