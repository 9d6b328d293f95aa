"""What a person sees while a command runs: log lines, progress bars, and one sentence when it fails."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitprune.errors import VitpruneError

console = Console()
stderr = Console(stderr=True)

SECONDS_BETWEEN_LINES = 10.0
"""Without a terminal, progress is a line every so often instead of a bar."""


def set_up_logging() -> None:
    """Show the library's log lines: through rich on a terminal, plainly elsewhere."""
    handler: logging.Handler
    if stderr.is_terminal:
        handler = RichHandler(console=stderr, show_path=False, show_level=False, show_time=False)
    else:
        handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("vitprune")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn an error meant for the user into one line on stderr and exit status 1, an interrupt into status 130."""
    try:
        yield
    except VitpruneError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


@contextmanager
def progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback ``(done, total)`` that draws a bar on a terminal and writes a line now and then elsewhere."""
    if stderr.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=stderr, transient=True) as bar:
            task = bar.add_task(description, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return

    last_line = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            logging.getLogger(__name__).info("%s: %d of %d", description, done, total)

    yield line
