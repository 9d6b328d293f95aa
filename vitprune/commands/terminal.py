"""What a person sees while a command runs: log lines, progress bars, and one sentence when it fails."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from vitprune.core.compute.failures import launcher
from vitprune.data.raw.names import escaped
from vitprune.errors import VitpruneError

if TYPE_CHECKING:
    from vitprune.circuit.engine.phase import SearchProgress
    from vitprune.evaluation.table import Table
    from vitprune.pruning.search import SpeedProgress
    from vitprune.training.fit import TrainingProgress
    from vitprune.training.history import EpochRecord

stderr = Console(stderr=True)
# Where there is no terminal, rich would squeeze a table into 80 columns.
console = Console(width=None if sys.stdout.isatty() else 110)

SECONDS_BETWEEN_LINES = 10.0
"""Without a terminal, progress is a line every so often instead of a bar."""
SECONDS_BETWEEN_TRAINING_LINES = 60.0
"""Longer in training, where each epoch has a line too."""


def set_up_logging() -> None:
    """Show the library's log lines: through rich on a terminal, plainly elsewhere.

    A character that the encoding of a stream lacks is written as its escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler: logging.Handler
    if stderr.is_terminal:
        handler = RichHandler(console=stderr, show_path=False, show_level=False, show_time=False)
    else:
        handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda _: _speaks())
    logger = logging.getLogger("vitprune")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)


def _speaks() -> bool:
    """Whether this process talks to the user: of several ranks, the first does."""
    # Not imported for this question: torch comes with it, and costs every command two seconds.
    distributed = sys.modules.get("vitprune.core.compute.distributed")
    return distributed is None or bool(distributed.world().is_main)


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn an error meant for the user into one line on stderr and exit status 1, an interrupt into status 130."""
    try:
        yield
    except VitpruneError as error:
        _complain(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except Exception as error:
        if _is_out_of_memory(error):
            _complain(
                "the machine or device ran out of memory; set acdc.batch_size or prune.batch_size, which bound the "
                "images held at once, or lower evaluate.batch_size or evaluate.timing_batch_sizes, or set "
                "compute.device to cpu"
            )
        elif launcher() is not None:
            from vitprune.core.compute.failures import record_failure

            record_failure(error)
        else:
            raise
        sys.exit(1)


def _is_out_of_memory(error: Exception) -> bool:
    # By its name, because importing torch to catch it would cost every command two seconds. On a CPU it has none.
    by_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and by_torch)


def _complain(message: str) -> None:
    """Say what is wrong; a rank leaves that to the process that started it."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        # Imported for ranks alone, because torch comes with it.
        from vitprune.core.compute.failures import Sentence, record_failure

        record_failure(Sentence(message))
    if launcher() is None:
        sys.stderr.write(f"error: {message}\n")
        sys.stderr.flush()


def _due(seconds: float = SECONDS_BETWEEN_LINES) -> Callable[[], bool]:
    """A function that is true when it is time for another line."""
    last_line = time.monotonic()

    def is_due() -> bool:
        nonlocal last_line
        if time.monotonic() - last_line < seconds:
            return False
        last_line = time.monotonic()
        return True

    return is_due


@contextmanager
def progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback ``(done, total)`` that draws a bar on a terminal and writes a line now and then elsewhere."""
    if stderr.is_terminal and _speaks():
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=stderr, transient=True) as bar:
            task = bar.add_task(description, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return

    is_due = _due()

    def line(done: int, total: int) -> None:
        if is_due():
            logging.getLogger(__name__).info("%s: %d of %d", description, done, total)

    yield line


@contextmanager
def search_progress(description: str) -> Iterator[Callable[[SearchProgress], None]]:
    """Yield a callback that shows how far a search is: decided, removed, its metric, and the time left."""
    logger = logging.getLogger(__name__)
    if stderr.is_terminal and _speaks():
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
        )
        with Progress(*columns, console=stderr, transient=True) as bar:
            task = bar.add_task(description, total=None, state="")
            yield lambda now: bar.update(task, completed=now.decided, total=now.total, state=_state(now))
        return

    is_due = _due()

    def line(now: SearchProgress) -> None:
        if is_due():
            logger.info("%s: %d of %d decided, %s", description, now.decided, now.total, _state(now))

    yield line


@contextmanager
def speed_progress(description: str) -> Iterator[Callable[[SpeedProgress], None]]:
    """Yield a callback that shows how fast a model should be by now, and what that costs."""

    def state(now: SpeedProgress) -> str:
        return f"{now.tried} tries, {now.whole_milliseconds / now.milliseconds:.2f} times as fast, KL {now.kl:.5f}"

    if stderr.is_terminal and _speaks():
        columns = (TextColumn("{task.description}", markup=False), TextColumn("{task.fields[state]}", markup=False))
        with Progress(*columns, console=stderr, transient=True) as bar:
            task = bar.add_task(description, total=None, state="")
            yield lambda now: bar.update(task, state=state(now))
        return

    is_due = _due()

    def line(now: SpeedProgress) -> None:
        if is_due():
            logging.getLogger(__name__).info("%s: %s", description, state(now))

    yield line


def _state(now: SearchProgress) -> str:
    minutes, seconds = divmod(round(now.seconds_left), 60)
    return f"{now.removed} removed, metric {now.damage:.5f}, about {minutes}:{seconds:02d} left"


@contextmanager
def training_progress(description: str) -> Iterator[TrainingProgress]:
    """Yield the callbacks of a training: a bar on a terminal, lines elsewhere."""
    from vitprune.training.fit import TrainingProgress

    logger = logging.getLogger(__name__)
    if not (stderr.is_terminal and _speaks()):
        is_due = _due(SECONDS_BETWEEN_TRAINING_LINES)

        def step(done: int, total: int) -> None:
            if is_due():
                logger.info("%s: %d of %d steps", description, done, total)

        yield TrainingProgress(on_epoch=lambda record: logger.info("%s: %s", description, _epoch(record)), on_step=step)
        return

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[epoch]}", markup=False),
    )
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(description, total=None, epoch="")
        yield TrainingProgress(
            on_epoch=lambda record: bar.update(task, epoch=_epoch(record)),
            on_step=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _epoch(record: EpochRecord) -> str:
    return (
        f"epoch {record.epoch}, loss {record.train_loss:.4f}, validation loss {record.val_loss:.4f}, accuracy "
        f"{100 * record.val_accuracy:.2f} %, learning rate {record.learning_rate:.2g}, "
        f"{record.images_per_second:.0f} images/s"
    )


def show_table(table: Table, *, is_wide: bool = False) -> None:
    """Print a table with its caption on stdout; one that is wide with a column for each of its rows."""
    # Five columns fit a terminal, fourteen would not.
    rows = list(zip(table.headers, *table.rows, strict=True)) if is_wide else [table.headers, *table.rows]
    # As text, because rich would take brackets in names for markup.
    headers, *others = [[Text(escaped(cell)) for cell in row] for row in rows]
    drawn = RichTable(caption=Text(table.caption) if table.caption else None, caption_justify="left")
    for number, header in enumerate(headers):
        drawn.add_column(header, justify="right" if number else "left")
    for row in others:
        drawn.add_row(*row)
    console.print(drawn)
