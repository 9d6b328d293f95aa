"""``vitprune export``: write a model as a file that other runtimes execute."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """Formats of exported models."""

    ONNX = "onnx"
    TORCH_EXPORT = "torch-export"


def export(
    model: Annotated[Path, typer.Argument(help="Folder of the model.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    file_format: Annotated[
        Format, typer.Option("--format", help="Format of the file; torch-export is PyTorch's own.")
    ] = Format.ONNX,
    simplify: Annotated[
        bool, typer.Option(help="Fold norms and normalisation into the weights. The predictions stay the same.")
    ] = True,
) -> None:
    """Write a model with its normalisation, and check that the file gives the same logits.

    The exported model takes float images with values from 0 to 1, in batches of any size, and returns logits.
    """
    import logging

    from vitprune.core.model import load_model
    from vitprune.export import export_onnx, export_program
    from vitprune.storage import check_targets

    check_targets(files=[out])
    saved = load_model(model)
    difference = (export_onnx if file_format is Format.ONNX else export_program)(saved, out, simplify=simplify)
    logging.getLogger(__name__).info("wrote %s; its logits are off by at most %.1g of the largest", out, difference)
