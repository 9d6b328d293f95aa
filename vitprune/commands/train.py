"""``vitprune train``: a ViT from packed images."""

from pathlib import Path
from typing import Annotated

import typer

from vitprune.commands.options import DataFolder, MetricsFile, OutFolder, ParamsFile, StateFile, TimingFile


def train(
    params: ParamsFile = Path("params.yaml"),
    data: DataFolder = Path("data/clean"),
    out: OutFolder = Path("models/baseline"),
    metrics: MetricsFile = Path("metrics/train.json"),
    timing: TimingFile = Path("metrics/train_timing.json"),
    history: Annotated[Path, typer.Option(help="CSV of losses and accuracies per epoch to write.")] = Path(
        "plots/train.csv"
    ),
    gradient_flow: Annotated[
        Path, typer.Option(help="CSV of gradients per layer and epoch to write; a PNG of it goes beside it.")
    ] = Path("plots/gradient_flow.csv"),
    augmented: Annotated[Path, typer.Option(help="PNG to write: augmented training images with their labels.")] = Path(
        "plots/augmented.png"
    ),
    state: StateFile = Path(".vitprune/train.pt"),
) -> None:
    """Train the baseline; keep the weights that are best on the validation images."""
    from vitprune.commands import fitting
    from vitprune.commands.context import open_params
    from vitprune.commands.starting import starting_model
    from vitprune.data import load_packed
    from vitprune.distributed import world
    from vitprune.model import load_model, save_model
    from vitprune.report.augmented import draw_augmented
    from vitprune.report.gradient_flow import draw_gradient_flow
    from vitprune.storage import check_targets, write_json
    from vitprune.training.history import write_gradient_flow, write_history
    from vitprune.training.inputs import first_batch

    options, device = open_params(params)
    check_targets(files=[metrics, timing, history, gradient_flow, augmented, state], folders=[out])
    packed = load_packed(data)
    saved = starting_model(options, packed)
    teacher = load_model(Path(options.train.teacher), device) if options.train.teacher else None
    result = fitting.fit(
        saved, packed, options, options.train, device, description="train", state=state, teacher=teacher
    )

    scores = fitting.metrics_of(saved, result, packed, device)
    if not world().is_main:
        return
    save_model(out, saved)
    write_history(history, result.history)
    write_gradient_flow(gradient_flow, result.gradient_flow)
    seen, targets = first_batch(
        packed.train,
        saved.preprocessing,
        options.train.augment,
        num_classes=packed.num_classes,
        batch_size=options.train.batch_size,
        seed=options.compute.seed,
    )
    draw_augmented(augmented, seen, targets, packed.class_names)
    draw_gradient_flow(gradient_flow.with_suffix(".png"), result.gradient_flow)
    write_json(metrics, scores)
    write_json(timing, fitting.timing_of(result, options, device))
    # All is saved: nothing is left to go on with.
    state.unlink(missing_ok=True)
