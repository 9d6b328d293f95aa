"""The forward pass of a training step: with the streams that a teacher compares, compiled, on one rank or several.

Legend of dimensions:
    b  images in the batch
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitprune.core.compute.distributed import world
from vitprune.core.model.vit import ViT
from vitprune.errors import TrainingError
from vitprune.training.distillation import Distiller, Streams


class _Forward(nn.Module):
    def __init__(self, model: ViT, distiller: Distiller | None) -> None:
        super().__init__()
        self.model = model
        self._distiller = distiller

    def forward(self, images: Tensor) -> tuple[Tensor, Streams]:
        return self._distiller.run(self.model, images) if self._distiller else (self.model(images), [])


def make_forward(
    model: ViT, distiller: Distiller | None, *, is_compiled: bool
) -> Callable[[Tensor], tuple[Tensor, Streams]]:
    """A function from normalised images ``(b, c, height, width)`` to logits ``(b, classes)`` and compared streams.

    The list of streams is empty if no teacher compares them. Each of several ranks passes its own rows of a batch, and
    the backward pass leaves the mean gradient over the ranks.
    """
    forward: nn.Module = _Forward(model, distiller)
    if is_compiled:
        # Compiled in place: the weights keep their names.
        forward.compile()
    if world().size > 1:
        forward = DistributedDataParallel(forward, broadcast_buffers=False)
    return forward


@contextmanager
def compile_errors() -> Iterator[None]:
    """Turn the compiler's errors into a TrainingError of one sentence."""
    try:
        yield
    except torch._dynamo.exc.BackendCompilerFailed as error:
        # The wrapper's own first line names no reason.
        reason = str(error.inner_exception).strip().partition("\n")[0]
        raise TrainingError(
            f"the model cannot be compiled here ({reason}); set train.compile to false, or install a C++ compiler"
        ) from error
