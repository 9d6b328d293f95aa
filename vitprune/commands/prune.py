"""``vitprune prune``: the compact model that a circuit needs, or that meets a target of speed or KL."""

import logging
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
    params: ParamsFile = Path("params.yaml"),
    data: DataFolder = Path("data/clean"),
    baseline: BaselineFolder = Path("models/baseline"),
    circuit: CircuitFolder = Path("models/circuit"),
    out: OutFolder = Path("models/pruned"),
    metrics: MetricsFile = Path("metrics/prune.json"),
    trace: Annotated[
        Path,
        typer.Option(help="CSV to write: KL and predicted milliseconds after each move."),
    ] = Path("plots/prune.csv"),
    latency: LatencyFile = Path("models/latency.json"),
) -> None:
    """Cut heads, neurons and sublayers out of the weights: what the circuit does not need, or down to a target."""
    from vitprune.commands.inputs import load_circuit, load_for, open_data, open_params
    from vitprune.commands.progress import speed_progress
    from vitprune.core.compute.device import pick_device
    from vitprune.core.compute.distributed import world
    from vitprune.core.model import save_model
    from vitprune.pruning.measurements import Measurements
    from vitprune.pruning.search import write_moves
    from vitprune.recipes.prune import CircuitModel
    from vitprune.recipes.prune import prune as run
    from vitprune.storage import check_targets, write_json

    options, device = open_params(params)
    timing_device = options.prune.timing_device
    if timing_device is not None:
        pick_device(timing_device, key="prune.timing_device")
    check_targets(files=[metrics, trace, latency], folders=[out])
    packed = open_data(data, options)
    saved = load_for(baseline, options, packed, device)
    found = None
    if not options.prune.has_target:
        found = CircuitModel(load_circuit(circuit, device), load_for(circuit / "model", options, packed, device))
    with speed_progress("prune") as on_progress:
        pruned = run(
            packed,
            saved,
            found,
            options.prune,
            options.finetune.rounds,
            device,
            known=Measurements.read(latency),
            on_progress=on_progress,
        )
    if not world().is_main:
        return
    save_model(out, pruned.saved)
    write_moves(trace, pruned.trace)
    write_json(metrics, pruned.metrics)
    pruned.measurements.write(latency)
    left, speed = pruned.metrics, pruned.metrics.get("measured_speedup")
    logging.getLogger(__name__).info(
        "the pruned model keeps %d of %d heads and %d of %d neurons%s; before fine-tuning, it is right on %.2f %% of "
        "the validation images",
        *(left[what][count] for what in ("heads", "neurons") for count in ("kept", "total")),
        "" if speed is None else f" and is {speed:.2f} times as fast as the baseline",
        100 * left["val"]["accuracy"],
    )
