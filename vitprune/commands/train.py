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
    history: Annotated[
        Path,
        typer.Option(help="CSV of losses and accuracies per epoch to write."),
    ] = Path("plots/train.csv"),
    gradient_flow: Annotated[
        Path, typer.Option(help="CSV of gradients per layer and epoch to write; a PNG of it goes beside it.")
    ] = Path("plots/gradient_flow.csv"),
    augmented: Annotated[
        Path, typer.Option(help="PNG of augmented training images with their labels to write.")
    ] = Path("plots/augmented.png"),
    state: StateFile = Path(".vitprune/train.pt"),
) -> None:
    """Train the baseline; keep the weights that are best on the validation images."""
    from vitprune.commands.inputs import open_data, open_params
    from vitprune.commands.progress import log_training, training_progress
    from vitprune.commands.unwatched import write_unwatched
    from vitprune.core.compute.distributed import world
    from vitprune.core.model import load_model, write_model
    from vitprune.recipes.train import train_baseline
    from vitprune.report.augmented import draw_augmented
    from vitprune.report.gradient_flow import draw_gradient_flow
    from vitprune.storage import atomic_folder, check_targets, write_json
    from vitprune.training.history import write_gradient_flow, write_history
    from vitprune.training.inputs import first_batch

    options, device = open_params(params)
    flow_plot = gradient_flow.with_suffix(".png")
    check_targets(files=[metrics, timing, history, gradient_flow, flow_plot, augmented, state], folders=[out])
    packed = open_data(data, options)
    teacher = load_model(Path(options.train.teacher), device) if options.train.teacher else None
    with training_progress("train") as progress:
        done = train_baseline(
            packed, options.model, options.train, options.compute, device,
            teacher=teacher, state=state, progress=progress,
        )  # fmt: skip
    if not world().is_main:
        return
    with atomic_folder(out) as partial:
        write_model(partial, done.saved)
        named = {"train.teacher": options.train.teacher, "model.pretrained_path": options.model.pretrained_path}
        write_unwatched(partial, "train", named)
    write_history(history, done.result.history)
    write_gradient_flow(gradient_flow, done.result.gradient_flow)
    write_json(metrics, done.scores)
    write_json(timing, done.timing)
    draw_gradient_flow(flow_plot, done.result.gradient_flow)
    images, targets = first_batch(
        packed.train,
        done.saved.preprocessing,
        options.train.augment,
        num_classes=packed.num_classes,
        batch_size=options.train.batch_size,
        seed=options.compute.seed,
    )
    draw_augmented(augmented, images, targets, packed.class_names)
    # Everything is saved: there is nothing left to resume.
    state.unlink(missing_ok=True)
    log_training("baseline", done.result)
