"""``vitprune predict``: classify image files."""

from pathlib import Path
from typing import Annotated

import typer

from vitprune.options import Resize


def predict(
    model: Annotated[Path, typer.Argument(help="Folder of the model.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Number of classes for each image.")] = 3,
    csv: Annotated[Path | None, typer.Option(help="CSV file to write instead of printing.")] = None,
    resize: Annotated[
        Resize | None,
        typer.Option(help="Take the middle square of an image, or stretch all of it. Not given: as in training."),
    ] = None,
    device: Annotated[str, typer.Option(help="Device to run on: auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Print the most probable classes of images, read as the model's training images were."""
    import logging
    from dataclasses import fields

    import pandas as pd

    from vitprune.commands.terminal import show_table
    from vitprune.core.compute.device import pick_device
    from vitprune.core.model import load_model
    from vitprune.data.cleaning.find import find_images
    from vitprune.errors import DataError
    from vitprune.evaluation.predictions import Prediction, predict_files, predictions_table
    from vitprune.storage import atomic_file, check_targets

    check_targets(files=[] if csv is None else [csv])
    chosen = pick_device(device)
    saved = load_model(model, chosen)
    logger = logging.getLogger(__name__)
    if resize is None and saved.resize is None:
        logger.warning("%s does not say how its training images became square: --resize crop is assumed", model)
    files = find_images(images)
    failures: list[DataError] = []
    predictions = predict_files(
        saved,
        files,
        top=top,
        resize=resize or saved.resize or "crop",
        device=chosen,
        on_failure=failures.append,
    )
    if csv is not None:
        with atomic_file(csv) as partial:
            columns = [column.name for column in fields(Prediction)]
            pd.DataFrame(predictions, columns=columns).to_csv(partial, index=False)
    elif predictions:
        show_table(predictions_table(predictions))
    for failure in failures[:-1]:
        logger.error("%s", failure)
    if failures:
        raise DataError(f"{failures[-1]} ({len(failures)} of {len(files)} files were left out)")
