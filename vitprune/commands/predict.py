"""``vitprune predict``: classify image files."""

from pathlib import Path
from typing import Annotated

import typer

from vitprune.core.packed import Resize


def predict(
    model: Annotated[Path, typer.Argument(help="Folder of the model.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Number of classes for each image.")] = 3,
    csv: Annotated[Path | None, typer.Option(help="CSV file to write instead of printing.")] = None,
    resize: Annotated[Resize, typer.Option(help="Take the middle square of an image, or stretch all of it.")] = "crop",
    device: Annotated[str, typer.Option(help="Device to run on: auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Print the most probable classes of images."""
    import pandas as pd

    from vitprune.commands.terminal import show_table
    from vitprune.core.compute.device import pick_device
    from vitprune.core.model import load_model
    from vitprune.data.cleaning.find import find_images
    from vitprune.evaluation.predictions import predict_files, predictions_table
    from vitprune.storage import atomic_file, check_targets

    check_targets(files=[] if csv is None else [csv])
    chosen = pick_device(device)
    saved = load_model(model, chosen)
    predictions = predict_files(saved, find_images(images), top=top, resize=resize, device=chosen)
    if csv is None:
        show_table(predictions_table(predictions))
    else:
        with atomic_file(csv) as partial:
            pd.DataFrame(predictions).to_csv(partial, index=False)
