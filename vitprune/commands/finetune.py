"""``vitprune finetune``: recovery of the pruned model, and the same training for the baseline as its control."""

from pathlib import Path
from typing import Annotated

import typer

from vitprune.commands.options import DataFolder, LatencyFile, MetricsFile, ParamsFile, StateFile, TimingFile


def finetune(
    params: ParamsFile = Path("params.yaml"),
    data: DataFolder = Path("data/clean"),
    baseline: Annotated[Path, typer.Option(help="Unpruned model.")] = Path("models/baseline"),
    pruned: Annotated[Path, typer.Option(help="Compact model.")] = Path("models/pruned"),
    out: Annotated[Path, typer.Option(help="Folder to write the models baseline/ and pruned/ into.")] = Path(
        "models/finetuned"
    ),
    metrics: MetricsFile = Path("metrics/finetune.json"),
    timing: TimingFile = Path("metrics/finetune_timing.json"),
    history: Annotated[Path, typer.Option(help="CSV per epoch; the name of the model is added to it.")] = Path(
        "plots/finetune.csv"
    ),
    state: StateFile = Path(".vitprune/finetune.pt"),
    latency: LatencyFile = Path(".vitprune/latency.json"),
) -> None:
    """Train the pruned model and, as the control, the baseline for the same number of epochs."""
    from copy import deepcopy

    from vitprune.commands import fitting, rounds
    from vitprune.commands.context import load_for, open_params
    from vitprune.data import load_packed
    from vitprune.distributed import world
    from vitprune.model import save_model
    from vitprune.storage import check_targets, remove, write_json
    from vitprune.training.history import write_history

    histories = {name: history.with_stem(f"{history.stem}_{name}") for name in ("baseline", "pruned")}
    states = {name: state.with_stem(f"{state.stem}_{name}") for name in histories}
    options, device = open_params(params)
    check_targets(
        files=[metrics, timing, *histories.values(), *states.values()],
        folders=[out / name for name in histories],
    )
    packed = load_packed(data)
    # Both are loaded before either is trained: a missing one is noticed at once.
    models = {
        "baseline": load_for(baseline, options, packed, device),
        "pruned": load_for(pruned, options, packed, device),
    }
    # A copy: the control changes the baseline that it starts from.
    teacher = deepcopy(models["baseline"])
    results = {
        "baseline": fitting.fit(
            models["baseline"],
            packed,
            options,
            options.finetune.recipe(options.train),
            device,
            description="finetune baseline",
            state=states["baseline"],
            teacher=teacher,
        )
    }
    models["pruned"], results["pruned"], pruned_on = rounds.recover(
        models["pruned"], teacher, packed, options, device, state=states["pruned"], latency=latency
    )
    scores = {name: fitting.metrics_of(saved, results[name], packed, device) for name, saved in models.items()}
    if not world().is_main:
        return
    for name, saved in models.items():
        save_model(out / name, saved)
        write_history(histories[name], results[name].history)
    if pruned_on:
        scores["pruned"]["pruned_on"] = pruned_on
    write_json(metrics, scores)
    write_json(timing, {name: fitting.timing_of(result, options, device) for name, result in results.items()})
    # All is saved: nothing is left to go on with.
    for left in (states["baseline"], *rounds.leftovers(states["pruned"], options.finetune.rounds)):
        remove(left)
