"""How a command comes to run on several processes: it starts them, or joins those that a launcher started."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import torch

from vitprune.commands.terminal import SAID_FILE
from vitprune.distributed import World
from vitprune.errors import ConfigError


def ranks_around() -> World | None:
    """The ranks that torchrun or SLURM's srun started, this process among them; None if nobody did."""
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return _world_of("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        os.environ.setdefault("MASTER_ADDR", _first_slurm_node())
        # The same for all ranks, and most likely another one than that of the job beside it.
        os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20_000))
        return _world_of("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    return None


def ranks_on_this_machine(found: World) -> int:
    """How many of the ranks share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or found.size)


def _world_of(rank: str, size: str, local_rank: str) -> World:
    try:
        return World(int(os.environ[rank]), int(os.environ[size]), int(os.environ.get(local_rank, "0")))
    except (KeyError, ValueError) as error:
        raise ConfigError(f"the environment variables {rank}, {size} and {local_rank} are no ranks ({error})") from None


def _first_slurm_node() -> str:
    if os.environ.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    nodes = os.environ.get("SLURM_STEP_NODELIST", "")
    try:
        found = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        return found.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ConfigError(
            f"SLURM's first node is not known ({error}); set MASTER_ADDR to the name of one of {nodes}"
        ) from None


def check_processes(processes: int, device: torch.device) -> None:
    """Raise ConfigError if this machine has no room for so many ranks."""
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise ConfigError(
            f"compute.processes is {processes}, but there are {torch.cuda.device_count()} CUDA devices here; lower it, "
            "or set compute.device to cpu"
        )
    if device.type == "cpu" and processes > (cores := os.cpu_count() or 1):
        raise ConfigError(f"compute.processes is {processes}, but there are {cores} CPU cores here; lower it")


def launch(processes: int) -> int:
    """Run this process's own command on so many ranks and return the exit status, 0 if all of them were done.

    Rank 0 writes to this process's stdout and stderr. What another one says is shown if it was the first to fail, and
    rank 0 did not get to say what went wrong.
    SIGTERM and interrupts are handed on, and waited for.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What torch's launcher logs repeats, in many lines, what the rank that failed said in one.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="vitprune-ranks-") as folder:
        said_file = Path(folder) / "said"
        os.environ[SAID_FILE] = str(said_file)
        others = dict.fromkeys(range(1, processes), Std.ALL)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=others),
        )
        try:
            elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            if rank and not said_file.exists():
                said = sorted(Path(folder).rglob(f"{failure.local_rank}/stderr.log"))
                sys.stderr.write("".join(path.read_text("utf-8", "replace") for path in said))
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        except SignalException as stop:
            return 128 + stop.sigval
    return 0
