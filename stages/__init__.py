"""The stages of this pipeline: which files each command reads and writes. ``python -m stages.train`` runs one.

Paths are relative to the working directory, so that an experiment in a copy of the workspace uses that copy.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import psutil

from vitprune.commands.terminal import report_errors, set_up_logging

SECONDS_BETWEEN_LOOKS = 1.0
SHELLS = {"sh", "ash", "bash", "dash", "fish", "ksh", "zsh"}


def run(command: Callable[[], None]) -> None:
    """Run a stage's command; an error meant for the user ends it in one line and exit status 1."""
    set_up_logging()
    _stop_with_parent()
    with report_errors():
        command()


def _stop_with_parent() -> None:
    """Stop when the process that started this one is gone.

    A killed ``dvc`` leaves its stage running, which would go on to write the outputs of a pipeline that nobody runs.
    DVC starts a stage through a shell, and not every shell makes way for the last command: then the shell stays alive
    between the two, and the one above it is the one to watch.
    """
    watched = psutil.Process().parents()[:2]
    if watched and watched[0].name() not in SHELLS:
        watched = watched[:1]

    def watch() -> None:
        while all(map(_is_alive, watched)):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="stop-with-parent", daemon=True).start()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
