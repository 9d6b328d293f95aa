"""``vitprune finetune``: recovery of the pruned model, and the same training for the baseline as its control."""

from pathlib import Path
from typing import Annotated

import typer

from vitprune.commands.options import (
    BaselineFolder,
    DataFolder,
    LatencyFile,
    MetricsFile,
    ParamsFile,
    PrunedFolder,
    StateFile,
    TimingFile,
)


def finetune(
    params: ParamsFile = Path("params.yaml"),
    data: DataFolder = Path("data/clean"),
    baseline: BaselineFolder = Path("models/baseline"),
    pruned: PrunedFolder = Path("models/pruned"),
    latency: LatencyFile = Path("models/latency.json"),
    out: Annotated[
        Path,
        typer.Option(help="Folder to write the models baseline/ and pruned/ into."),
    ] = Path("models/finetuned"),
    metrics: MetricsFile = Path("metrics/finetune.json"),
    timing: TimingFile = Path("metrics/finetune_timing.json"),
    history: Annotated[
        Path,
        typer.Option(help="CSV per epoch to write; the name of the model is added to it."),
    ] = Path("plots/finetune.csv"),
    state: StateFile = Path(".vitprune/finetune.pt"),
) -> None:
    """Train the pruned model and, as the control, the baseline for the same number of epochs."""
    from vitprune.commands.inputs import load_for, open_data, open_params
    from vitprune.commands.progress import log_training, speed_progress, training_progress
    from vitprune.core.compute.distributed import world
    from vitprune.core.model import save_model
    from vitprune.pruning.measurements import Measurements
    from vitprune.recipes.finetune import MODELS, Recovery
    from vitprune.storage import check_targets, remove, write_json
    from vitprune.training.history import write_history

    options, device = open_params(params)
    packed = open_data(data, options)
    recovery = Recovery(
        packed=packed,
        train=options.train,
        finetune=options.finetune,
        prune=options.prune,
        compute=options.compute,
        device=device,
        state=state,
        known=Measurements.read(latency),
        watch_training=training_progress,
        watch_pruning=speed_progress,
    )
    histories = {name: history.with_stem(f"{history.stem}_{name}") for name in MODELS}
    check_targets(
        files=[metrics, timing, *histories.values(), *recovery.states.values()],
        folders=[out / name for name in MODELS],
    )
    # Both are loaded before either is trained, so that a missing one is noticed at once.
    models = [load_for(folder, options, packed, device) for folder in (baseline, pruned)]
    done = recovery.run(*models)
    if not world().is_main:
        return
    for name, model in done.models.items():
        save_model(out / name, model.saved)
        write_history(histories[name], model.result.history)
    scores = {name: dict(model.scores) for name, model in done.models.items()}
    if done.pruned_between:
        scores["pruned"]["pruned_between_rounds"] = done.pruned_between
    write_json(metrics, scores)
    write_json(timing, {name: model.timing for name, model in done.models.items()})
    # Everything is saved: there is nothing left to resume.
    for left in recovery.leftovers():
        remove(left)
    for name, model in done.models.items():
        log_training(f"{name}, fine-tuned", model.result)
