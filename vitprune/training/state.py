"""The state of a training run between two steps, saved in a file so that an interrupted run can go on."""

from __future__ import annotations

import pickle
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch

from vitprune.errors import TrainingError
from vitprune.storage import atomic_file

FORMAT = 3

State = dict[str, Any]
"""Tensors, numbers and text, in dicts and lists."""


class StateFile:
    """The file of a run's state, to be written every few ``minutes``; ``identity`` tells this run from others."""

    def __init__(self, path: Path, identity: dict[str, Any], minutes: float) -> None:
        self.path, self.minutes = path, minutes
        self.identity = {name: str(value) for name, value in identity.items()}
        self._saved_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether ``minutes`` have passed since the last save."""
        return time.monotonic() - self._saved_at >= 60 * self.minutes

    def save(self, state: State) -> None:
        """Replace the saved state, atomically. Raises StorageError if it cannot be written."""
        with atomic_file(self.path) as partial:
            torch.save({"format": FORMAT, "identity": self.identity, "state": state}, partial)
        self._saved_at = time.monotonic()

    def load(self) -> State | None:
        """The state of an interrupted run with its tensors on the CPU, or None if there is no file.

        Raises TrainingError if the state belongs to another run or cannot be read.
        """
        if not self.path.exists():
            return None
        advice = f"delete {self.path} to start this run from the beginning"
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            file_format, saved_identity, state = content["format"], content["identity"], content["state"]
        except (OSError, RuntimeError, EOFError, ValueError, TypeError, KeyError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TrainingError(
                f"{self.path}: not readable as the state of a training run ({reason}); {advice}"
            ) from None
        if file_format != FORMAT:
            raise TrainingError(
                f"{self.path}: was written by another version of vitprune (format {file_format}); {advice}"
            )
        # This run's identity comes first: in it, what a user sets precedes the digests that follow from it.
        for name in {**self.identity, **saved_identity}:
            now, then = self.identity.get(name), saved_identity.get(name)
            if now != then:
                raise TrainingError(
                    f"{self.path}: is the state of an interrupted run with another configuration ({name} {then}, now "
                    f"{now}); finish that run with its own params, or {advice}"
                )
        return state


@dataclass
class StopRequest:
    """The SIGTERM or keyboard interrupt that asked this process to stop, if one did."""

    signal: int | None = None


def leave(number: int) -> NoReturn:
    """End the process as the signal would have: with KeyboardInterrupt or status 143."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + int(signal.SIGTERM))


@contextmanager
def stop_requests(*, enabled: bool) -> Iterator[StopRequest]:
    """If ``enabled``, note the first SIGTERM or interrupt instead of ending; the second one ends the process.

    Python allows signal handlers in the main thread only; in other threads nothing is noted.
    """
    request = StopRequest()

    def note(number: int, _: FrameType | None) -> None:
        if request.signal is not None:
            leave(request.signal)
        request.signal = number

    previous = {}
    for number in (signal.SIGTERM, signal.SIGINT) if enabled else ():
        try:
            previous[number] = signal.signal(number, note)
        except ValueError:
            break
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
