"""The forward pass of a training step: through the model alone or with what a teacher compares, compiled, on one rank.

Legend of dimensions:
    b  images in the batch
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import dropout
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from vitprune.distributed import world
from vitprune.errors import TrainingError
from vitprune.model.vit import ViT
from vitprune.training.distillation import Distiller, Streams
from vitprune.training.precision import Precision


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
    """A function from normalised images to logits and, if a teacher compares them, streams.

    Of several ranks each calls it on its share of a batch; the gradients that follow are the mean over the ranks.
    """
    forward: nn.Module = _Forward(model, distiller)
    if is_compiled:
        # The same function still, so the model's weights and their names stay as they are.
        forward.compile()
    if world().size > 1:
        forward = DistributedDataParallel(forward, broadcast_buffers=False)
    return forward


@contextmanager
def compile_errors() -> Iterator[None]:
    """Say in one sentence that a model cannot be compiled here."""
    try:
        yield
    except (torch._dynamo.exc.BackendCompilerFailed, torch._inductor.exc.InductorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(
            f"the model cannot be compiled here ({reason}); set train.compile to false, or install a C++ compiler"
        ) from error


def attention_kernels(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The attention that is fastest in training, by the measurements in benchmarks/results/training_speed.md.

    On CPUs the fused kernel is the slower one in bf16. Not chosen anew by each run: then its weights would depend on a
    clock. On CUDA the kernels have to be deterministic, which decides.
    """
    if device.type == "cpu" and precision == "bf16":
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


class WholeBatchRandomness(TorchFunctionMode):
    """Dropout and stochastic depth draw for a whole batch and use this rank's rows of it, as a single rank would.

    ``rows`` is this rank's part of the ``count`` images.
    """

    def __init__(self, rows: slice, count: int) -> None:
        super().__init__()
        self._rows, self._count = rows, count

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.rand:
            return torch.rand(self._count, *args[1:], **kwargs)[self._rows]
        if function is dropout:
            x, probability, is_training = args[0], *_dropout_options(args, kwargs)
            if not (is_training and probability):
                return x
            ones = torch.ones(self._count, *x.shape[1:], dtype=x.dtype, device=x.device)
            return x * torch.dropout(ones, probability, train=True)[self._rows]
        return function(*args, **kwargs)


def _dropout_options(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, bool]:
    given = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
    return float(given.get("p", 0.5)), bool(given.get("training", True))
