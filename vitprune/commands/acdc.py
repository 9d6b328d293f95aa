"""``vitprune acdc``: the circuit of a trained model, and the smaller model that is left of it."""

from pathlib import Path
from typing import Annotated

import typer

from vitprune.commands.options import DataFolder, MetricsFile, ParamsFile, TimingFile


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
) -> None:
    """Find the edges that matter (ACDC), and cut what does not matter out of the weights."""
    import time
    from dataclasses import replace

    import numpy as np
    import torch

    from vitprune.circuit import Ablation, Graph
    from vitprune.circuit import acdc as find_circuit
    from vitprune.circuit.metrics import kl_divergence
    from vitprune.circuit.neurons import sort_neurons
    from vitprune.commands.context import load_for, open_params
    from vitprune.commands.terminal import progress
    from vitprune.data import load_packed
    from vitprune.device import describe_machine
    from vitprune.model import save_model
    from vitprune.model.predict import predict
    from vitprune.model.score import score
    from vitprune.pruning import compact, describe_removal
    from vitprune.storage import atomic_folder, check_targets, write_json

    options, device = open_params(params)
    check_targets(files=[metrics, timing], folders=[circuit, pruned])
    packed = load_packed(data)
    saved = load_for(baseline, options, packed, device)
    search = options.acdc
    start = time.perf_counter()

    order = np.random.default_rng(search.seed).permutation(len(packed.train))
    images, reference = (
        saved.preprocessing(torch.from_numpy(packed.train.images[np.sort(order[:count])]).to(device))
        for count in (search.num_images, search.num_reference_images)
    )
    model = sort_neurons(saved.model, images, torch.Generator().manual_seed(search.seed))
    ablation = Ablation.zero(model) if search.ablation == "zero" else Ablation.mean(model, reference)
    with progress("acdc") as on_progress:
        found = find_circuit(
            model,
            images,
            graph=Graph.of(model, search.split_qkv, search.mlp_groups),
            ablation=ablation,
            tau=search.tau,
            granularity=search.granularity,
            on_progress=on_progress,
        )
    seconds = time.perf_counter() - start
    small = compact(model, found)

    full, masked, dense = (
        predict(answering, packed.val.images, saved.preprocessing, device=device)
        for answering in (model, found.as_module(model), small)
    )
    with atomic_folder(circuit) as partial:
        found.write_files(partial)
        save_model(partial / "model", replace(saved, model=model))
    save_model(pruned, replace(saved, model=small))
    write_json(
        metrics,
        describe_removal(found, small)
        | {
            "search_kl": found.kl,
            "search_images": len(images),
            "val": {
                "baseline": score(full, packed.val.labels).as_metrics(),
                "circuit": score(masked, packed.val.labels).as_metrics() | {"kl": kl_divergence(full, masked)},
                "pruned": score(dense, packed.val.labels).as_metrics() | {"kl": kl_divergence(full, dense)},
            },
        },
    )
    tested = sum(decision.action != "unreachable" for decision in found.trace)
    write_json(timing, {"seconds": round(seconds, 2), "tests": tested, "machine": describe_machine(device)})
