"""Signals that ask a training run to stop: the first is noted, so that the state can be saved, the second ends it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn


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
