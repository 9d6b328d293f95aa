"""The stages of this pipeline: which files each command reads and writes. ``python -m stages.train`` runs one.

Paths are relative to the working directory, so that an experiment in a copy of the workspace uses that copy.
"""

from __future__ import annotations

from collections.abc import Callable

from vitprune.commands.parent import stop_with_parent
from vitprune.commands.terminal import report_errors, set_up_logging


def run(command: Callable[[], None]) -> None:
    """Run a stage's command; an error meant for the user ends it in one line and exit status 1."""
    set_up_logging()
    stop_with_parent()
    with report_errors():
        command()
