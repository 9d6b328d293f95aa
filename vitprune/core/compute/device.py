"""Where the arithmetic runs: the device and the number of CPU threads that ``compute`` asks for."""

from __future__ import annotations

import ctypes
import platform
import re
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from vitprune.errors import ConfigError
from vitprune.options import Options, Seed

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_THREADS = torch.get_num_threads()


DeviceName = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]


class ComputeOptions(Options):
    """Where and how the arithmetic runs; ``threads: null`` leaves the number, of each process, to PyTorch."""

    device: DeviceName
    processes: Annotated[int, Field(gt=0, le=1024)]
    threads: Annotated[int, Field(gt=0, le=1024)] | None
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    seed: Seed


def pick_device(name: str, local_rank: int | None = None, *, key: str = "compute.device") -> torch.device:
    """The device that the parameter ``key`` names: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    ``auto`` takes CUDA where there is one, then MPS, then the CPU. A CUDA device always comes with its index. Where
    several processes share the machine, the one with ``local_rank`` N takes cuda:N. Raises ConfigError if the name is
    unknown or this machine has no such device.
    """
    if local_rank is not None and torch.cuda.is_available():
        if name in ("auto", "cuda"):
            name = f"cuda:{local_rank}"
        elif name.startswith("cuda:"):
            raise ConfigError(f"{key} is {name!r}, but several processes cannot share it; use auto or cuda")
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError(f"{key} is 'mps', but PyTorch finds no MPS device here; use auto or cpu")
        return torch.device("mps")
    if match := re.fullmatch(r"cuda(?::(\d+))?", name):
        return _cuda_device(name, match[1], key)
    raise ConfigError(f"{key} must be auto, cpu, cuda, cuda:N or mps, got {name!r}")


def _cuda_device(name: str, index: str | None, key: str) -> torch.device:
    if not torch.cuda.is_available():
        raise ConfigError(f"{key} is {name!r}, but PyTorch finds no CUDA device here; use auto or cpu")
    if index is None:
        return torch.device("cuda", torch.cuda.current_device())
    count = torch.cuda.device_count()
    if int(index) >= count:
        raise ConfigError(f"{key} is {name!r}, but the CUDA devices here are cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", int(index))


def set_threads(threads: int | None) -> None:
    """Use this many CPU threads from here on, in the whole process; None means as many as PyTorch started with."""
    torch.set_num_threads(threads or _THREADS)


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, where the C library is glibc; elsewhere nothing happens.

    By default large blocks go back to the system, which clears every page of them before it gives them out again. In
    training on a CPU, where each step asks for the same blocks, that takes a tenth of the time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """What a timing cannot be read without: device, threads, versions."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor(device: torch.device) -> str:
    """The processor's own name where the system tells, its architecture elsewhere, and what of it computes."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()} {device.type.upper()}"
