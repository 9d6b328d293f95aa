"""The command line: ``python -m vitprune COMMAND``."""

from __future__ import annotations

import typer

from vitprune.commands.acdc import acdc
from vitprune.commands.benchmark import benchmark
from vitprune.commands.clean import clean
from vitprune.commands.download import download
from vitprune.commands.evaluate import evaluate
from vitprune.commands.export import export
from vitprune.commands.finetune import finetune
from vitprune.commands.params import params
from vitprune.commands.parent import stop_with_launcher
from vitprune.commands.pareto import pareto
from vitprune.commands.predict import predict
from vitprune.commands.prune import prune
from vitprune.commands.report import report
from vitprune.commands.show import show
from vitprune.commands.table import table
from vitprune.commands.terminal import report_errors, set_up_logging
from vitprune.commands.train import train

app = typer.Typer(
    name="vitprune",
    help="Prune Vision Transformers by automated circuit discovery.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
STAGES = (download, clean, train, acdc, prune, finetune, evaluate, report)
TOOLS = (params, table, pareto, show, predict, benchmark, export)
for command in (*STAGES, *TOOLS):
    app.command()(command)


def main() -> None:
    """Run the command line; an error meant for the user is one line and exit status 1."""
    set_up_logging()
    stop_with_launcher()
    with report_errors():
        app()
