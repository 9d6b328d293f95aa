"""The number format of training: full float32, or mixed precision with float32 weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from vitprune.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]

_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def choose_precision(wanted: Precision | Literal["auto"], device: torch.device) -> Precision:
    """What ``auto`` means on this device: bf16 where it computes in it by itself, fp32 elsewhere; others stay."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        is_native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        # Others emulate it, which is slower than float32.
        is_native = device.type == "cpu" and any(torch.cpu.get_capabilities().get(name) for name in _BF16_INSTRUCTIONS)
    return "bf16" if is_native else "fp32"


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
