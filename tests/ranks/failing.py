"""A command that starts itself on two ranks, of which one fails: ``python -m tests.ranks.failing HOW RANK``."""

import logging
import os
import signal
import sys
import time

import torch

from vitprune.commands.parent import stop_with_launcher
from vitprune.commands.terminal import report_errors, set_up_logging
from vitprune.core.compute.distributed import join, total, world
from vitprune.core.compute.launch import launch, started_rank
from vitprune.errors import ConfigError
from vitprune.training.signals import leave, stop_requests


def fail(how: str) -> None:
    """End this rank in one of many ways; some of them are none."""
    match how:
        case "error":
            raise ConfigError("only this one fails")
        case "bug":
            raise ZeroDivisionError("a bug\nof two lines")
        case "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        case "exit":
            sys.stderr.write("what it says\n")
            sys.stderr.flush()
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)


def wait_for_others() -> None:
    """Sum on and on, as a training does."""
    while True:
        total(torch.ones(1000))


def save_slowly() -> None:
    """Note the first signal, as a training does, and take too long to save."""
    with stop_requests(enabled=True) as request:
        while request.signal is None:
            time.sleep(0.01)
        if world().is_main:
            logging.getLogger("vitprune").info("saving")
        time.sleep(60)
        leave(request.signal)


if __name__ == "__main__":
    set_up_logging()
    stop_with_launcher()
    with report_errors():
        rank = started_rank()
        if rank is None:
            sys.exit(launch(2))
        join(rank, torch.device("cpu"))
        total(torch.ones(1))
        logging.getLogger("vitprune").info("started")
        if sys.argv[1] == "slow":
            save_slowly()
        elif rank.rank == int(sys.argv[2]):
            fail(sys.argv[1])
        wait_for_others()
