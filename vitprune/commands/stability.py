"""``vitprune stability``: how much of a circuit other images would have led to."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from vitprune.commands.options import CircuitFolder, DataFolder, MetricsFile, ParamsFile


def stability(
    params: ParamsFile = Path("params.yaml"),
    data: DataFolder = Path("data/clean"),
    circuit: CircuitFolder = Path("models/circuit"),
    samples: Annotated[int, typer.Option(min=2, help="Bootstrap samples of the images, a search on each.")] = 100,
    out: Annotated[
        Path, typer.Option(help="CSV of how often samples keep an edge to write; a PNG goes beside it.")
    ] = Path("reports/stability.csv"),
    metrics: MetricsFile = Path("reports/stability.json"),
) -> None:
    """Repeat the search for a circuit on bootstrap samples of its images, and say which edges they agree about."""
    from vitprune.commands.inputs import chosen_images, load_circuit, load_for, open_data, open_params
    from vitprune.commands.progress import progress
    from vitprune.core.compute.distributed import world
    from vitprune.errors import StorageError
    from vitprune.recipes.stability import find_stability
    from vitprune.report.stability import draw_stability, write_stability
    from vitprune.storage import check_targets, write_json

    options, device = open_params(params)
    picture = out.with_suffix(".png")
    if picture == out:
        raise StorageError(f"{out}: is where the picture goes; give a name that ends in .csv")
    check_targets(files=[out, picture, metrics])
    packed = open_data(data, options)
    saved = load_for(circuit / "model", options, packed, device)
    found_before, chosen = load_circuit(circuit, device), chosen_images(options.acdc, data)
    with progress("bootstrap", "samples") as on_sample:
        found = find_stability(packed, saved, found_before, options.acdc, samples, chosen, on_sample)
    if not world().is_main:
        return
    write_stability(out, found.stability, found_before.keep_mask)
    draw_stability(picture, found.stability, found.agreement)
    write_json(metrics, found.metrics)
    logging.getLogger(__name__).info("%s", found.sentence())
    logging.getLogger(__name__).info("wrote %s, %s and %s", out, picture, metrics)
