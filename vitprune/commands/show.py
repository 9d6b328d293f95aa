"""``vitprune show``: what is left of a model, layer by layer."""

from pathlib import Path
from typing import Annotated

import typer


def show(
    model: Annotated[Path, typer.Argument(help="Folder of the model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print the heads and neurons of each layer, and the size of the model."""
    import json

    from vitprune.commands.terminal import console, show_table
    from vitprune.core.model import load_model
    from vitprune.evaluation.summary import summarise, summary_table

    summary = summarise(load_model(model), model)
    if as_json:
        console.print_json(json.dumps(summary))
    else:
        show_table(summary_table(summary))
