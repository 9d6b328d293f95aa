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
        typer.Option(help="Markdown file to put the most important columns into, between its results marks."),
    ] = None,
) -> None:
    """Print the table of models, or put it into a Markdown file."""
    from vitprune.commands.results import open_results
    from vitprune.commands.terminal import show_table
    from vitprune.evaluation.table import short_table
    from vitprune.report.markdown import fill as fill_marks
    from vitprune.report.markdown import to_markdown

    scores, times, results = open_results(metrics, timing)
    show_table(results, is_wide=True)
    if fill is not None:
        fill_marks(fill, "results", to_markdown(short_table(scores, times)))
