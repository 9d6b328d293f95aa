"""The command line: ``python -m vitprune COMMAND``."""

from __future__ import annotations

import os
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from vitprune.commands.acdc import acdc
from vitprune.commands.benchmark import benchmark
from vitprune.commands.clean import clean
from vitprune.commands.compare import compare
from vitprune.commands.download import download
from vitprune.commands.evaluate import evaluate
from vitprune.commands.export import export
from vitprune.commands.finetune import finetune
from vitprune.commands.importance import importance
from vitprune.commands.params import params
from vitprune.commands.parent import stop_with_launcher
from vitprune.commands.pareto import pareto
from vitprune.commands.predict import predict
from vitprune.commands.prune import prune
from vitprune.commands.report import report
from vitprune.commands.show import show
from vitprune.commands.stability import stability
from vitprune.commands.table import table
from vitprune.commands.terminal import AS_JSON, QUIET, report_errors, set_up_logging
from vitprune.commands.train import train

app = typer.Typer(
    name="vitprune",
    help="Prune Vision Transformers by automated circuit discovery.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
STAGES = (download, clean, train, acdc, prune, finetune, evaluate, report)
TOOLS = (params, table, pareto, stability, compare, importance, show, predict, benchmark, export)
for command in (*STAGES, *TOOLS):
    app.command()(command)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"vitprune {version_of('vitprune')}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print tables as JSON.")] = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Prune Vision Transformers by automated circuit discovery."""
    for is_wanted, variable in ((quiet, QUIET), (json, AS_JSON)):
        if is_wanted:
            os.environ[variable] = "1"
    set_up_logging()


def main() -> None:
    """Run the command line; an error meant for the user is one line and exit status 1."""
    set_up_logging()
    stop_with_launcher()
    with report_errors():
        app()
