"""``vitprune acdc``: the circuit of a trained model."""

import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vitprune.commands.options import BaselineFolder, DataFolder, MetricsFile, OutFolder, ParamsFile, TimingFile


def acdc(
    params: ParamsFile = Path("params.yaml"),
    data: DataFolder = Path("data/clean"),
    baseline: BaselineFolder = Path("models/baseline"),
    out: OutFolder = Path("models/circuit"),
    metrics: MetricsFile = Path("metrics/acdc.json"),
    timing: TimingFile = Path("metrics/acdc_timing.json"),
    faithfulness: Annotated[
        Path, typer.Option(help="CSV of KL, accuracy and recovered share against edges to write; a PNG goes beside it.")
    ] = Path("plots/faithfulness.csv"),
    stability: Annotated[
        Path, typer.Option(help="CSV of how often bootstrap samples keep an edge to write; a PNG goes beside it.")
    ] = Path("plots/stability.csv"),
    journal: Annotated[
        Path,
        typer.Option(help="File that keeps the search, to go on after an interruption."),
    ] = Path(".vitprune/acdc.jsonl"),
) -> None:
    """Find the edges that matter; write the circuit, its trace, and the model with sorted neurons."""
    from vitprune.circuit.methods import discovery_options
    from vitprune.circuit.methods.acdc import directions_of, journal_of
    from vitprune.commands.inputs import chosen_images, load_for, open_data, open_params
    from vitprune.commands.progress import progress, search_progress
    from vitprune.commands.unwatched import write_unwatched
    from vitprune.core.compute.distributed import world
    from vitprune.core.model import save_model
    from vitprune.recipes.acdc import find_circuit
    from vitprune.report.faithfulness import draw_faithfulness, write_faithfulness
    from vitprune.report.stability import draw_stability, write_stability
    from vitprune.storage import atomic_folder, check_targets, write_json

    options, device = open_params(params)
    picture, stability_picture = faithfulness.with_suffix(".png"), stability.with_suffix(".png")
    files = [metrics, timing, faithfulness, picture, stability, stability_picture, journal]
    check_targets(files=files, folders=[out])
    packed = open_data(data, options)
    saved, chosen = load_for(baseline, options, packed, device), chosen_images(options.acdc, data)
    found = find_circuit(
        packed,
        saved,
        options.acdc,
        device,
        chosen=chosen,
        watch_search=partial(search_progress, options.acdc.method),
        watch_samples=partial(progress, "bootstrap", "samples"),
        journal=journal,
    )
    if not world().is_main:
        return
    with atomic_folder(out) as folder:
        found.circuit.write_files(folder)
        save_model(folder / "model", found.saved)
        write_unwatched(folder, "acdc", {"acdc.images": options.acdc.images})
    write_faithfulness(faithfulness, found.curves, found.point, found.circuit.method)
    circuit = found.circuit
    edges, is_searched = len(circuit.graph.edges), bool(circuit.trace)
    draw_faithfulness(picture, found.curves, found.point, circuit.method, edges, is_searched=is_searched)
    stable = found.stable
    samples, agreement = (stable.stability, stable.agreement) if stable else (None, None)
    write_stability(stability, samples, circuit.keep_mask)
    draw_stability(stability_picture, samples, agreement)
    write_json(metrics, found.metrics)
    write_json(timing, found.timing)
    # Everything is saved: there is nothing left to resume.
    for direction in directions_of(discovery_options(options.acdc)):
        journal_of(journal, direction).unlink(missing_ok=True)
    kept, val = found.metrics, found.metrics["val"]
    logging.getLogger(__name__).info(
        "the circuit keeps %d of %d edges, %d of %d heads and %d of %d MLP groups; on validation images it is right on "
        "%.2f %%, the baseline on %.2f %%",
        *(kept[what][count] for what in ("edges", "heads", "mlp_groups") for count in ("kept", "total")),
        100 * val["circuit"]["accuracy"],
        100 * val["baseline"]["accuracy"],
    )
    if stable:
        logging.getLogger(__name__).info("%s", stable.sentence())
