"""Run a command on several processes: start them, or join those that torchrun started."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import uuid
from pathlib import Path

import torch

from vitprune.core.compute.distributed import World
from vitprune.errors import ConfigError


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


def record_error(message: str) -> None:
    """Tell the launcher of this rank that it has failed and written ``message`` to stderr."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(RuntimeError(message))


def launch(processes: int) -> int:
    """Run this process's own command line on so many ranks and return the exit status: 0, or that of the first failure.

    SIGTERM and interrupts are passed on to the ranks and waited for. Rank 0 writes to this process's stdout and stderr.
    The stderr of another rank is shown only if it was the first to fail and rank 0 has recorded no error.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The launcher logs the whole failure again, in many lines.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="vitprune-ranks-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=dict.fromkeys(range(1, processes), Std.ALL)),
        )
        try:
            elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            sys.stderr.write(_unseen_error(Path(folder), rank))
            if failure.exitcode < 0:
                sys.stderr.write(f"error: process {rank} of {processes} was ended by {failure.signal_name()}\n")
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        except SignalException as stop:
            return 128 + stop.sigval
    return 0


def _unseen_error(folder: Path, first_failed: int) -> str:
    """What the first rank to fail wrote to stderr, or nothing if rank 0 has shown an error.

    torch's launcher gives each rank a folder named after it, for its output and the error that it recorded. Several
    ranks may have failed between two looks of the launcher: the recorded errors tell which was first.
    """
    recorded = sorted(folder.rglob("error.json"), key=lambda path: path.stat().st_mtime_ns)
    ranks = [path.parent.name for path in recorded] or [str(first_failed)]
    if "0" in ranks:
        return ""
    return "".join(path.read_text("utf-8", "replace") for path in folder.rglob(f"{ranks[0]}/stderr.log"))
