"""Commands and stages run inside the test's own process: their status, stdout and stderr, as a shell would see them."""

import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from vitprune.cli import main
from vitprune.commands.terminal import report_errors, set_up_logging


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*arguments: str | Path, folder: Path) -> Done:
    """Run ``vitprune`` with these arguments in ``folder``."""
    with mock.patch.object(sys, "argv", ["vitprune", *map(str, arguments)]):
        return _run(main, folder)


def run_stage(stage: str, folder: Path) -> Done:
    """Run a stage in ``folder``, without the thread that stops it with its parent."""

    def stage_main() -> None:
        set_up_logging()
        with report_errors():
            getattr(importlib.import_module(f"stages.{stage}"), stage)()

    return _run(stage_main, folder)


def _run(work: Callable[[], None], folder: Path) -> Done:
    """The working directory, environment, log handlers and number of threads are put back afterwards."""
    logger, threads = logging.getLogger("vitprune"), torch.get_num_threads()
    handlers, level, before = logger.handlers[:], logger.level, Path.cwd()
    stdout, stderr, status = io.StringIO(), io.StringIO(), 0
    environment = dict(os.environ)
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            work()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
        logger.handlers[:] = handlers
        logger.setLevel(level)
        torch.set_num_threads(threads)
    return Done(status, stdout.getvalue(), stderr.getvalue())


def assert_one_sentence(done: Done, *parts: str) -> None:
    """The command failed with status 1 and one line on stderr that names all ``parts``."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr
