"""``vitprune show``: what a model consists of, and what was removed."""

from pathlib import Path
from typing import Annotated

import typer


def show(
    model: Annotated[Path, typer.Argument(help="Folder of the model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print the heads and neurons of each layer, parameters and multiply-adds."""
    import json

    from vitprune.commands.terminal import console, show_table
    from vitprune.evaluation.anatomy import anatomy, anatomy_table
    from vitprune.model import load_model

    found = anatomy(load_model(model), sum(file.stat().st_size for file in model.iterdir()))
    if as_json:
        console.print_json(json.dumps(found))
    else:
        show_table(anatomy_table(found))
