"""The number format of training: full float32, or mixed precision with float32 weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from vitprune.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise ConfigError if this device cannot train in this precision."""
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"compute.precision fp16 needs a CUDA device, but training runs on {device}; use bf16 or fp32"
        )


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context in which the forward pass runs."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def make_scaler(precision: Precision) -> torch.amp.GradScaler:
    """Scaling of the loss, without which small fp16 gradients become zero; for other precisions it does nothing."""
    return torch.amp.GradScaler("cuda", enabled=precision == "fp16")
