"""Muon for many small matrices: those of one shape are orthogonalised together, in a precision for the device."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic polynomial that is iterated (Jordan et al. 2024, kellerjordan.github.io/posts/muon)."""
ITERATIONS = 5
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """The steps of ``torch.optim.Muon`` with Nesterov momentum, sized like AdamW's, for weight matrices.

    torch takes one matrix after the other, in bfloat16. Without instructions for bfloat16, as on most CPUs, that takes
    longer than the rest of a small model's step.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step once along the gradients; a closure is not supported."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for (rows, columns), parameters in by_shape.items():
                updates = orthogonalised(torch.stack([self._momentum(parameter) for parameter in parameters]))
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                # As long as AdamW's steps: Liu et al. 2025, arXiv 2502.16982.
                size = 0.2 * math.sqrt(max(rows, columns)) * group["lr"]
                torch._foreach_add_(parameters, list(updates.to(parameters[0]).unbind()), alpha=-size)

    def _momentum(self, parameter: Tensor) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(average, MOMENTUM)


def orthogonalised(matrices: Tensor) -> Tensor:
    """``matrices (n, rows, columns)`` with all their singular values near one, between 0.7 and 1.2 or so.

    A Newton-Schulz iteration, in bfloat16 on CUDA devices and in single precision elsewhere.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalised(matrices.mT).mT
    first, second, third = COEFFICIENTS
    dtype = torch.bfloat16 if matrices.is_cuda else torch.float32
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    x = x.to(dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=second, alpha=third), x, beta=first)
    return x
