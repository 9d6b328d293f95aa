"""How a training computes: the device, the number format, the kernels and the seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitprune.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
"""Full float32, or mixed precision; the weights are float32 in each."""

_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def choose_precision(wanted: Precision | Literal["auto"], device: torch.device) -> Precision:
    """Resolve ``auto``: bf16 where the device has instructions for it, fp32 elsewhere."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        has_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        # Other processors emulate bf16, which is slower than float32.
        has_bf16 = device.type == "cpu" and any(torch.cpu.get_capabilities().get(name) for name in _BF16_INSTRUCTIONS)
    return "bf16" if has_bf16 else "fp32"


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Device, number format and seed of a training.

    Raises ConfigError if the device cannot train in this precision.
    """

    device: torch.device
    precision: Precision
    seed: int

    def __post_init__(self) -> None:
        if self.precision == "fp16" and self.device.type != "cuda":
            raise ConfigError(
                f"compute.precision fp16 needs a CUDA device, but training runs on {self.device}; use bf16 or fp32"
            )

    def autocast(self) -> AbstractContextManager[object]:
        """The context of the forward pass."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    def scaler(self) -> torch.amp.GradScaler:
        """The scaler of the loss: without it, small fp16 gradients become zero. It does nothing in other formats."""
        return torch.amp.GradScaler("cuda", enabled=self.precision == "fp16")

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """Use the kernels that training needs: repeatable ones on CUDA, the fastest attention on a CPU.

        On CUDA the fused attention kernels do not repeat their backward pass exactly, and with the few dozen tokens of
        these models they gain little. ``torch.use_deterministic_algorithms`` would need an environment variable that is
        set before CUDA starts. On CPUs the fused kernel is the slower one in bf16
        (benchmarks/results/training_speed.md). The choice is fixed, so that no measurement decides the weights.
        """
        with ExitStack() as stack:
            if self.device.type == "cuda":
                stack.callback(setattr, torch.backends.cudnn, "deterministic", torch.backends.cudnn.deterministic)
                torch.backends.cudnn.deterministic = True
            if self.device.type == "cuda" or (self.device.type == "cpu" and self.precision == "bf16"):
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield
