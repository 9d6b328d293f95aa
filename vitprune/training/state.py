"""The state of a training run between two steps, kept in a file so that an interrupted run goes on where it was."""

from __future__ import annotations

import pickle
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from vitprune.errors import TrainingError
from vitprune.storage import atomic_file

FORMAT = 2

State = dict[str, Any]
"""Tensors, numbers and text, in dicts and lists."""


class StateFile:
    """Where a run keeps its state, every so many minutes; ``identity`` says in plain values which run it belongs to."""

    def __init__(self, path: Path, identity: dict[str, Any], minutes: float) -> None:
        self.path, self.minutes = path, minutes
        self.identity = {name: str(value) for name, value in identity.items()}
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the last state is old enough for a new one."""
        return time.monotonic() - self._last >= 60 * self.minutes

    def save(self, state: State) -> None:
        """Replace the state, atomically. Raises StorageError if it cannot be written."""
        with atomic_file(self.path) as partial:
            torch.save({"format": FORMAT, "identity": self.identity, "state": state}, partial)
        self._last = time.monotonic()

    def load(self) -> State | None:
        """The state of an interrupted run, None if there is none; its tensors are on the CPU.

        Raises TrainingError if it belongs to another run, or cannot be read.
        """
        if not self.path.exists():
            return None
        advice = f"delete {self.path} to start this run from the beginning"
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            kind, identity, state = found["format"], found["identity"], found["state"]
        except (OSError, RuntimeError, EOFError, ValueError, TypeError, KeyError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TrainingError(
                f"{self.path}: not readable as the state of a training run ({reason}); {advice}"
            ) from None
        if kind != FORMAT:
            raise TrainingError(f"{self.path}: was written by another version of vitprune (format {kind}); {advice}")
        # In the order of this run's identity, where what a user sets comes before the digests that follow from it.
        for name in {**self.identity, **identity}:
            now, then = self.identity.get(name), identity.get(name)
            if now != then:
                raise TrainingError(
                    f"{self.path}: is the state of an interrupted run with another configuration ({name} {then}, now "
                    f"{now}); finish that run with its own params, or {advice}"
                )
        return state


class StopRequest:
    """Whether somebody asked the process to stop: SIGTERM or an interrupt from the keyboard."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def leave(self) -> None:
        """End the process as the signal would have: KeyboardInterrupt, or status 143."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + int(signal.SIGTERM))


@contextmanager
def stop_requests(*, enabled: bool) -> Iterator[StopRequest]:
    """Note the first SIGTERM or interrupt instead of ending at once, if ``enabled``; the second one ends.

    Outside the main thread, where Python allows no signal handlers, nothing is noted.
    """
    request = StopRequest()

    def note(number: int, _: FrameType | None) -> None:
        if request.signal is not None:
            request.leave()
        request.signal = number

    before = {}
    for number in (signal.SIGTERM, signal.SIGINT) if enabled else ():
        try:
            before[number] = signal.signal(number, note)
        except ValueError:
            break
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
