"""Work on files from strangers in processes of their own, so that what kills a process costs one file and not the run.

A decoder may crash, hang or ask for all the memory there is. Each worker gets a batch at a time through a pipe. If it
dies, its batch is tried again file by file; a file on which a worker dies once more is given up.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil

from vitprune.errors import VitpruneError

BATCH_ITEMS = 64
BATCH_BYTES = 1 << 20
"""A batch is full at so many files or bytes: enough that sending it costs little next to the work on it."""
MAX_WORKERS = 16
"""More would wait for the one process that reads the archive."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a worker may take for one file; ``memory_bytes`` comes on top of what it has when it starts.

    Where the system cannot limit a process (Windows, and the memory of macOS), there is no limit.
    """

    seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Death:
    """In place of a result: why the worker died."""

    reason: str


@dataclass(frozen=True)
class _Batch:
    items: list[tuple[int, Any]]
    tried: bool = False


def work(
    function: Callable[[Any], Any], items: Iterable[tuple[int, Any]], limits: Limits, *, processes: int | None = None
) -> Iterator[tuple[int, Any]]:
    """Apply a function to numbered items in several processes; yields number and result as they come.

    ``function`` and the items must be picklable. The result is a Death where the function killed its worker twice.
    ``processes`` None means one for each CPU that this process may use.
    """
    most = processes or min(MAX_WORKERS, _usable_cpus())
    fresh, again = _batches(items), deque[_Batch]()
    idle: list[_Worker] = []
    busy: dict[Any, _Worker] = {}
    try:
        while True:
            while len(busy) < most and (batch := again.popleft() if again else next(fresh, None)) is not None:
                worker = idle.pop() if idle else _Worker(function, limits)
                busy[worker.connection] = worker
                worker.send(batch)
            if not busy:
                return
            for connection in wait(list(busy)):
                worker = busy.pop(connection)
                try:
                    results = worker.connection.recv()
                except (EOFError, OSError):
                    death = Death(worker.cause_of_death(limits))
                    if worker.batch.tried:
                        yield worker.batch.items[0][0], death
                    else:
                        again += [_Batch([item], tried=True) for item in worker.batch.items]
                else:
                    idle.append(worker)
                    yield from results
    finally:
        for worker in (*idle, *busy.values()):
            worker.stop()


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _batches(items: Iterable[tuple[int, Any]]) -> Iterator[_Batch]:
    batch: list[tuple[int, Any]] = []
    size = 0
    for number, item in items:
        batch.append((number, item))
        size += getattr(item, "nbytes", 0) or sys.getsizeof(item)
        if len(batch) == BATCH_ITEMS or size >= BATCH_BYTES:
            yield _Batch(batch)
            batch, size = [], 0
    if batch:
        yield _Batch(batch)


class _Worker:
    """A process that answers batches through ``connection``, and the batch that it has."""

    batch: _Batch

    def __init__(self, function: Callable[[Any], Any], limits: Limits) -> None:
        # Not fork: it would copy the locks of this process's threads in whatever state they are.
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            # Imported once, and not by every worker anew.
            context.set_forkserver_preload([__name__, getattr(function, "func", function).__module__])
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function, limits), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise VitpruneError(
                f"a process that decodes images cannot start (exit status {self._process.exitcode}); "
                "is there memory left, and may this user start processes?"
            ) from None

    def send(self, batch: _Batch) -> None:
        self.batch = batch
        # If it is dead already, that shows when its answer is read.
        with suppress(OSError):
            self.connection.send(batch.items)

    def cause_of_death(self, limits: Limits) -> str:
        self.stop()
        code = self._process.exitcode or 0
        if code == -getattr(signal, "SIGALRM", 0):
            return f"took longer than {limits.seconds:g} s"
        return f"killed its process ({signal.Signals(-code).name if code < 0 else f'exit status {code}'})"

    def stop(self) -> None:
        self.connection.close()
        self._process.join(0.1)
        self._process.kill()
        self._process.join()


def _serve(connection: Connection, function: Callable[[Any], Any], limits: Limits) -> None:
    # An interrupt goes to the process that started this one, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries log here would be printed between the lines of the progress bar.
    logging.disable()
    _limit_memory(limits.memory_bytes)
    connection.send(None)
    while True:
        try:
            items = connection.recv()
        except EOFError:
            return
        results = []
        for number, item in items:
            _alarm(limits.seconds)
            results.append((number, function(item)))
        _alarm(0)
        connection.send(results)


def _alarm(seconds: float) -> None:
    """Let the system kill this process after so many seconds, whatever it is doing then; 0: not at all."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_memory(memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:
        return
    limit = psutil.Process().memory_info().vms + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
