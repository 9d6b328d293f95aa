"""``vitprune acdc``: the circuit of a trained model, and the smaller model that is left of it."""

from pathlib import Path
from typing import Annotated

import typer

from vitprune.commands.options import DataFolder, LatencyFile, MetricsFile, ParamsFile, TimingFile


def acdc(
    params: ParamsFile = Path("params.yaml"),
    data: DataFolder = Path("data/clean"),
    baseline: Annotated[Path, typer.Option(help="Model to search.")] = Path("models/baseline"),
    circuit: Annotated[
        Path, typer.Option(help="Folder to write: the circuit, its trace, and the model with sorted neurons.")
    ] = Path("models/circuit"),
    pruned: Annotated[Path, typer.Option(help="Folder to write: the compact model.")] = Path("models/pruned"),
    metrics: MetricsFile = Path("metrics/acdc.json"),
    timing: TimingFile = Path("metrics/acdc_timing.json"),
    faithfulness: Annotated[
        Path, typer.Option(help="CSV to write: KL, accuracy and recovered share against the number of edges.")
    ] = Path("plots/faithfulness.csv"),
    picture: Annotated[Path, typer.Option(help="PNG to write: the same as curves.")] = Path("plots/faithfulness.png"),
    journal: Annotated[
        Path, typer.Option(help="File where the search is written down, so that it can go on after an interruption.")
    ] = Path(".vitprune/acdc.jsonl"),
    latency: LatencyFile = Path(".vitprune/latency.json"),
) -> None:
    """Find the edges that matter, and cut what does not matter out of the weights."""
    import time
    from dataclasses import replace

    import torch

    from vitprune.circuit import Ablation
    from vitprune.circuit.discovery import ablation_of, discover_by_params
    from vitprune.circuit.methods import Watch
    from vitprune.circuit.metrics import kl_divergence
    from vitprune.circuit.neurons import sort_neurons
    from vitprune.commands.context import load_for, open_params
    from vitprune.commands.pruning import prune_to_target
    from vitprune.commands.searching import compare_rankings, search_images
    from vitprune.commands.terminal import search_progress
    from vitprune.data import load_packed
    from vitprune.device import describe_machine
    from vitprune.distributed import from_main, world
    from vitprune.model import save_model
    from vitprune.model.predict import predict
    from vitprune.model.score import score
    from vitprune.pruning import compact, describe_removal
    from vitprune.report.faithfulness import draw_faithfulness, write_faithfulness
    from vitprune.storage import atomic_folder, check_targets, write_json

    options, device = open_params(params)
    check_targets(files=[metrics, timing, faithfulness, picture], folders=[circuit, pruned])
    packed = load_packed(data)
    saved = load_for(baseline, options, packed, device)
    search = options.acdc
    start = time.perf_counter()

    images, labels = search_images(packed, saved.preprocessing, search.num_images, search.seed, device)
    reference, _ = search_images(packed, saved.preprocessing, search.num_reference_images, search.seed, device)
    model = sort_neurons(saved.model, images, torch.Generator().manual_seed(search.seed))
    with search_progress(search.method) as on_progress:
        ablation = ablation_of(search, model, reference)
        watch = Watch(on_progress=on_progress, journal=journal)
        found = discover_by_params(search, model, images, labels, ablation, watch)
    seconds = time.perf_counter() - start
    # Only what is the same for every image can be folded into the weights.
    folded = ablation if ablation.foldable else Ablation.mean(model, reference)
    if options.prune.has_target:
        small, to_target = from_main(
            lambda: prune_to_target(options.prune_in_round(1), model, images, folded, device, latency=latency)
        )
    else:
        small, to_target = compact(model, replace(found, ablation=folded)), {}

    full, masked, dense = (
        predict(answering, packed.val.images, saved.preprocessing, device=device)
        for answering in (model, found.as_module(model), small)
    )
    curves, point, summary = compare_rankings(search, found, model, images, labels, packed, saved.preprocessing, device)
    if not world().is_main:
        return
    with atomic_folder(circuit) as partial:
        found.write_files(partial)
        save_model(partial / "model", replace(saved, model=model))
    save_model(pruned, replace(saved, model=small))
    write_faithfulness(faithfulness, curves)
    draw_faithfulness(picture, curves, point, found.method)
    write_json(
        metrics,
        describe_removal(found, small)
        | {
            "method": search.method,
            "search_kl": found.kl,
            "search_images": len(images),
            "val": {
                "baseline": score(full, packed.val.labels).as_metrics(),
                "circuit": score(masked, packed.val.labels).as_metrics() | {"kl": kl_divergence(full, masked)},
                "pruned": score(dense, packed.val.labels).as_metrics() | {"kl": kl_divergence(full, dense)},
            },
            "faithfulness": summary,
        }
        | ({"to_target": to_target} if to_target else {}),
    )
    tested = sum(decision.action in ("removed", "kept") for decision in found.trace)
    write_json(timing, {"seconds": round(seconds, 2), "tests": tested, "machine": describe_machine(device)})
    # The search is over and its result saved.
    journal.unlink(missing_ok=True)
