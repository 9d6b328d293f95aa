"""A process that ends with the one that started it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence

import psutil

from vitprune.core.compute.failures import launcher

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_SAVE = 60.0
SHELLS = {"sh", "ash", "bash", "dash", "fish", "ksh", "zsh"}


def stop_with_parent() -> None:
    """Stop when the process that started this one is gone.

    A killed ``dvc`` leaves its stage running, which would go on to write the outputs of a pipeline that nobody runs.
    DVC starts a stage through a shell, and not every shell makes way for the last command: then the shell stays alive
    between the two, and the one above it is the one to watch.
    """
    if launcher() is not None:
        stop_with_launcher()
        return
    watched = psutil.Process().parents()[:2]
    if watched and watched[0].name() not in SHELLS:
        watched = watched[:1]
    if watched:
        _stop_with(watched, is_rank=False)


def stop_with_launcher() -> None:
    """If this process is a rank, stop when the one that started all ranks is gone, even while it waits for others."""
    if (number := launcher()) is not None:
        # If it is gone already, this process has another parent.
        parents = [parent for parent in psutil.Process().parents()[:1] if parent.pid == number]
        _stop_with(parents, is_rank=True)


def _stop_with(watched: Sequence[psutil.Process], *, is_rank: bool) -> None:
    def watch() -> None:
        while watched and all(map(_is_alive, watched)):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os.kill(os.getpid(), signal.SIGTERM)
        if is_rank:
            # It may wait for a rank that is gone, and never come to handle the signal.
            time.sleep(SECONDS_TO_SAVE)
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="stop-with-parent", daemon=True).start()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
