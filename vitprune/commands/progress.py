"""How far long work is: what, how far, how fast, how long it will take, and the figure that it is about.

On a terminal that is a bar; elsewhere, as under ``dvc repro > log``, it is a line every so often.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from vitprune.commands.terminal import is_quiet, speaks, stderr

if TYPE_CHECKING:
    from vitprune.circuit.engine.phase import SearchProgress
    from vitprune.pruning.search import SpeedProgress
    from vitprune.training.fit import TrainingProgress
    from vitprune.training.history import EpochRecord
    from vitprune.training.progress import TrainingResult

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
"""Without a terminal, there is no more than a line in this time."""
SECONDS_UNTIL_AN_ESTIMATE = 1.0
"""Before, a rate would say little."""


class Display:
    """Shows one piece of work; called with how much is done and of how much, None where nobody knows."""

    def __init__(self, description: str, unit: str) -> None:
        self._description = description
        self._unit = unit
        self._last_line = time.monotonic()
        # Work that goes on where it stopped starts with some of it done.
        self._start: tuple[float, int] | None = None
        self._done: tuple[int, int | None] = (0, None)
        self._figure = ""
        self._bar: Progress | None = None

    @contextmanager
    def shown(self) -> Iterator[Display]:
        """Show a bar on a terminal for as long as the work goes on."""
        if not stderr.is_terminal or not speaks() or is_quiet():
            yield self
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
        )
        with Progress(*columns, console=stderr, transient=True) as self._bar:
            self._bar.add_task(self._description, total=None, state="")
            yield self
        self._bar = None

    def __call__(
        self, done: int, total: int | None = None, figure: str | None = None, seconds_left: float | None = None
    ) -> None:
        """Show how far the work is; a ``figure`` stays until another comes. The time left is estimated if not given."""
        now = time.monotonic()
        self._start = self._start or (now, done)
        self._done = (done, total)
        self._figure = self._figure if figure is None else figure
        state = [self._pace(now, seconds_left), self._figure]
        text = ", ".join(filter(None, state))
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, state=text)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            of = "" if total is None else f" of {total:,}"
            logger.info("%s: %s%s %s%s", self._description, f"{done:,}", of, self._unit, f", {text}" if text else "")

    def say(self, figure: str) -> None:
        """Show another figure of what is done so far."""
        self(*self._done, figure)

    def _pace(self, now: float, seconds_left: float | None) -> str:
        """The rate, and the time left where there is an end."""
        assert self._start is not None
        done, total = self._done
        passed, fresh = now - self._start[0], done - self._start[1]
        parts = []
        if fresh > 0 and passed >= SECONDS_UNTIL_AN_ESTIMATE:
            parts.append(f"{fresh / passed:,.0f} {self._unit}/s" if fresh > passed else f"{passed / fresh:.1f} s each")
            if seconds_left is None and total is not None:
                seconds_left = passed / fresh * (total - done)
        if seconds_left is not None and done != total:
            parts.append(f"about {duration(seconds_left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def progress(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback ``(done, total)`` for work on so many of a ``unit``, which is a plural."""
    with Display(description, unit).shown() as display:
        yield display


@contextmanager
def search_progress(description: str) -> Iterator[Callable[[SearchProgress], None]]:
    """Yield a callback that shows how far a search is: decided, removed, its metric, and the time left."""
    with Display(description, "decisions").shown() as display:
        yield lambda now: display(
            now.decided, now.total, f"{now.removed:,} removed, metric {now.damage:.5f}", now.seconds_left
        )


@contextmanager
def speed_progress(description: str) -> Iterator[Callable[[SpeedProgress], None]]:
    """Yield a callback that shows how fast a model should be by now, and what that costs."""
    with Display(description, "tries").shown() as display:
        yield lambda now: display(
            now.tried, figure=f"{now.whole_milliseconds / now.milliseconds:.2f} times as fast, KL {now.kl:.5f}"
        )


@contextmanager
def training_progress(description: str) -> Iterator[TrainingProgress]:
    """Yield the callbacks of a training."""
    from vitprune.training.fit import TrainingProgress

    with Display(description, "steps").shown() as display:
        yield TrainingProgress(on_step=display, on_epoch=lambda record: display.say(_epoch(record)))


def log_training(name: str, result: TrainingResult) -> None:
    """Say how the training of a model ended."""
    seconds = sum(record.seconds for record in result.history)
    best = f"epoch {result.best_epoch}" if result.best_epoch else "as it was before"
    logger.info(
        "%s: trained %d epochs in %s; best on validation: %s, accuracy %.2f %%, loss %.4f",
        name,
        len(result.history),
        duration(seconds),
        best,
        100 * result.best.accuracy,
        result.best.loss,
    )


def _epoch(record: EpochRecord) -> str:
    return (
        f"epoch {record.epoch}: loss {record.train_loss:.4f}, validation loss {record.val_loss:.4f}, accuracy "
        f"{100 * record.val_accuracy:.2f} %, {record.images_per_second:,.0f} images/s"
    )
