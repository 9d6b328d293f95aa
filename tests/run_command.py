"""Commands run inside the test's own process, with what a shell would see of them: status, stdout and stderr."""

import contextlib
import io
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from vitprune.cli import main


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*arguments: str | Path, folder: Path) -> Done:
    """Run ``vitprune`` in ``folder``. The working directory, log handlers and threads are put back afterwards."""
    logger, threads = logging.getLogger("vitprune"), torch.get_num_threads()
    handlers, level, before = logger.handlers[:], logger.level, Path.cwd()
    stdout, stderr, status = io.StringIO(), io.StringIO(), 0
    os.chdir(folder)
    try:
        with (
            mock.patch.object(sys, "argv", ["vitprune", *map(str, arguments)]),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        os.chdir(before)
        logger.handlers[:], logger.level = handlers, level
        torch.set_num_threads(threads)
    return Done(status, stdout.getvalue(), stderr.getvalue())


def assert_one_sentence(done: Done, *parts: str) -> None:
    """The command failed with status 1 and one line on stderr that names all ``parts``."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr
