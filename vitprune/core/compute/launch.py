"""Run a command on several processes: start them, or join those that torchrun started."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from vitprune.core.compute.distributed import World
from vitprune.core.compute.failures import LAUNCHER, first_failure
from vitprune.errors import ConfigError

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_SAVE = 600
"""Ranks that were asked to stop may take so long to save their state."""
SECONDS_TO_END = 10
STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGINT}
"""Exit statuses of ranks that were asked to stop, and agreed to."""


def started_rank() -> World | None:
    """The rank that a launcher made this process, or None if there was no launcher.

    Raises ConfigError if SLURM started several tasks that torchrun knows nothing of.
    """
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise ConfigError(
            "srun started several tasks, but only torchrun makes them one run; use srun with one task per machine and "
            "torchrun in it, see docs/training.md"
        )
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    try:
        return World(*(int(os.environ.get(name, "0")) for name in names))
    except ValueError as error:
        raise ConfigError(f"the environment variables {', '.join(names)} are not all numbers ({error})") from None


def ranks_on_this_machine(ranks: World) -> int:
    """How many ranks share the cores of this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size))


def check_processes(processes: int, device: torch.device) -> None:
    """Raise ConfigError if this machine has too few devices or cores for so many ranks."""
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise ConfigError(
            f"compute.processes is {processes}, but there are {torch.cuda.device_count()} CUDA devices here; lower it, "
            "or set compute.device to cpu"
        )
    if device.type == "cpu" and processes > (cores := os.cpu_count() or 1):
        raise ConfigError(f"compute.processes is {processes}, but there are {cores} CPU cores here; lower it")


def launch(processes: int) -> int:
    """Run this process's own command line on so many ranks and return the exit status.

    The status is 0, 1 if a rank failed, which is then said in one sentence, or that of the signal that ended the run.
    SIGTERM and interrupts are passed on to the ranks and waited for; the second one ends all at once. Rank 0 writes to
    this process's stdout and stderr. No rank outlives this call.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # torch's launcher logs the whole failure again, in many lines, and its ranks that others are gone.
    logger = logging.getLogger("torch.distributed")
    logger.handlers[:] = [logging.NullHandler()]
    logger.propagate = False
    os.environ |= {LAUNCHER: str(os.getpid()), "TORCH_CPP_LOG_LEVEL": "FATAL"}
    with tempfile.TemporaryDirectory(prefix="vitprune-ranks-", ignore_cleanup_errors=True) as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            monitor_interval=SECONDS_BETWEEN_LOOKS,
            shutdown_timeout=SECONDS_TO_SAVE,
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=dict.fromkeys(range(1, processes), Std.ALL)),
        )
        try:
            elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
        except ChildFailedError as failed:
            statuses = {rank: failure.exitcode for rank, failure in failed.failures.items()}
            if set(statuses.values()) <= STOPPED:
                return max(statuses.values())
            sys.stderr.write(f"error: {first_failure(Path(folder), statuses, processes)}\n")
            return 1
        except SignalException as stop:
            return 128 + stop.sigval
        finally:
            end_children()
    return 0


def end_children() -> None:
    """End all processes that this one has started, first with SIGTERM and after some seconds with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    left = psutil.Process().children(recursive=True)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                end(process)
        _, left = psutil.wait_procs(left, timeout=SECONDS_TO_END)
