"""``vitprune table``: the table of models from the last evaluation, on the terminal or in a Markdown file."""

from pathlib import Path
from typing import Annotated

import typer


def table(
    metrics: Annotated[Path, typer.Option(help="JSON file of metrics that the evaluate command wrote.")] = Path(
        "metrics/evaluate.json"
    ),
    timing: Annotated[Path, typer.Option(help="JSON file of timings that the evaluate command wrote.")] = Path(
        "metrics/timing.json"
    ),
    fill: Annotated[
        Path | None,
        typer.Option(help="Markdown file to put the table into, between its results marks."),
    ] = None,
) -> None:
    """Print the table of models, or put it into a Markdown file."""
    from vitprune.commands.terminal import show_table
    from vitprune.errors import CheckpointError
    from vitprune.evaluation.table import model_table
    from vitprune.report.markdown import fill as fill_marks
    from vitprune.report.markdown import to_markdown
    from vitprune.storage import read_json

    scores, times = read_json(metrics), read_json(timing)
    try:
        results = model_table(scores, times)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{metrics}, {timing}: not the figures of an evaluation ({error!r}); run the evaluate stage again"
        ) from error
    show_table(results, is_wide=True)
    if fill is not None:
        fill_marks(fill, "results", to_markdown(results))
