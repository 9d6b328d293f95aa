"""A command that starts itself on two ranks, of which the second fails: ``python -m tests.ranks.failing HOW``."""

import logging
import os
import signal
import sys
import time

import torch

from vitprune.commands.terminal import report_errors, set_up_logging
from vitprune.core.compute.distributed import join, leave
from vitprune.core.compute.launch import launch, started_rank
from vitprune.errors import ConfigError


def fail(how: str) -> None:
    if how == "error":
        raise ConfigError("only the second fails")
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    set_up_logging()
    with report_errors():
        rank = started_rank()
        if rank is None:
            sys.exit(launch(2))
        join(rank, torch.device("cpu"))
        logging.getLogger("vitprune").info("started")
        if rank.rank:
            fail(sys.argv[1])
        leave()
        time.sleep(60)
