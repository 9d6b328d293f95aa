"""The fold: what is removed from a sublayer is predicted by what stays, and the prediction moves into its weights.

Legend of dimensions: b images, t tokens, d width of the stream, m inner width of a sublayer: its neurons, or the
outputs of its heads side by side.

A sublayer writes W a + bias, with inner activations a. Once the part P of a is removed, the part S that stays can still
say something about it: with the ridge regression a_P ≈ μ_P(t) + B (a_S − μ_S(t)), the sublayer writes
(W_S + W_P B) a_S + bias + W_P (μ_P(t) − B μ_S(t)). That costs nothing at inference. The *mean* fold is B = 0; the
*affine* fold has B = Σ_PS (Σ_SS + λI)⁻¹, with the covariance Σ of the activations around each token's own mean (CORP,
arXiv 2602.05243).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.core.model.predict import evaluation_mode
from vitprune.core.model.vit import Attention, Intermediate, Mlp, ViT

RIDGE = 1e-2
"""λ of the affine fold, in units of the mean variance of the activations."""
BATCH_SIZE = 128


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Of a sublayer's inner activations on some images: ``mean (t, m)`` and covariances ``(m, m)`` around it.

    ``all_tokens`` is pooled over the tokens, ``class_token`` is that of the first token alone. Both are in double
    precision.
    """

    mean: Tensor
    all_tokens: Tensor
    class_token: Tensor


@dataclass(frozen=True, kw_only=True)
class Folded:
    """What a sublayer with some members left writes by: ``weight (d, m)`` and ``bias``, ``(t, d)`` or ``(d,)``."""

    weight: Tensor
    bias: Tensor


class Fold:
    """How the output map of each sublayer of ``model`` makes up for removed heads and neurons.

    ``means`` are the inner activations that stand for what is removed, ``(t, m)`` for each sublayer, or None where they
    are all zero. ``covariances`` make the fold an affine one: for each sublayer that of all tokens and that of the
    class token alone.
    """

    def __init__(
        self,
        model: ViT,
        means: Sequence[Tensor | None] | None,
        covariances: Sequence[tuple[Tensor, Tensor] | None] | None = None,
    ) -> None:
        self._model, self._means, self._covariances = model, means, covariances

    @classmethod
    def mean(cls, ablation: Ablation, model: ViT) -> Fold:
        """The fold after which the compact model computes what the masked one does with ``ablation``.

        Raises CircuitError if the ablation is of another model.
        """
        ablation.check(model)
        if ablation.kind == "zero":
            return cls(model, None)
        means: list[Tensor | None] = []
        for heads, neurons in zip(ablation.heads, ablation.neurons, strict=True):
            means += [rearrange(heads, "h t k -> t (h k)"), neurons]
        return cls(model, means)

    @classmethod
    def affine(cls, model: ViT, images: Tensor) -> Fold:
        """The fold by ridge regression on normalised ``images (b, c, height, width)``."""
        moments = moments_of(model, images)
        return cls(
            model,
            [None if of is None else of.mean for of in moments],
            [None if of is None else (of.all_tokens, of.class_token) for of in moments],
        )

    @property
    def by_token(self) -> bool:
        """Whether the biases differ from token to token."""
        return self._means is not None or self._model.config.token_biases

    def of(self, index: int, kept: Tensor, *, is_short: bool) -> Folded:
        """Weight and bias of sublayer ``index`` with the heads or neurons ``kept`` left.

        ``is_short`` says that the compact model computes the class token alone there.
        """
        block = self._model.blocks[index // 2]
        sublayer = block.mlp if index % 2 else block.attention
        assert sublayer is not None
        weight, bias = sublayer.out.weight.detach(), sublayer.out.bias.detach()
        stays = _inner(sublayer, kept)
        gone = _others(stays, weight.shape[1])
        means = None if self._means is None else self._means[index]
        if means is None:
            return Folded(weight=weight[:, stays], bias=bias)
        bias = bias + means[:, gone] @ weight[:, gone].T
        if self._covariances is None or not len(stays) or not len(gone):
            return Folded(weight=weight[:, stays], bias=bias)
        covariances = self._covariances[index]
        assert covariances is not None
        covariance = covariances[1 if is_short else 0]
        among_kept = covariance[stays[:, None], stays].clone()
        variances = covariance.diagonal()
        squares = variances + means.to(covariance).square().mean(dim=0)
        among_kept.diagonal().add_(ridge_penalty(RIDGE, variances, squares))
        crossed = covariance[stays[:, None], gone] @ weight[:, gone].T.to(covariance)
        more = torch.cholesky_solve(crossed, torch.linalg.cholesky(among_kept)).T.to(weight)
        return Folded(weight=weight[:, stays] + more, bias=bias - means[:, stays] @ more.T)


@torch.no_grad()
def moments_of(model: ViT, images: Tensor) -> list[Moments | None]:
    """The moments of each sublayer on normalised ``images (b, c, height, width)``, None where it is missing."""
    precise = precise_device(images.device)
    sums: dict[int, list[Tensor]] = {}

    def tap(layer: int, kind: Intermediate, value: Tensor) -> None:
        if kind not in ("heads", "neurons"):
            return
        inner = rearrange(value, "b h t k -> b t (h k)") if kind == "heads" else value
        inner = inner.to(precise, torch.float64)
        new = [
            inner.sum(dim=0),
            torch.einsum("btm,btn->mn", inner, inner),
            torch.einsum("bm,bn->mn", inner[:, 0], inner[:, 0]),
        ]
        index = 2 * layer + (kind == "neurons")
        sums[index] = [total + more for total, more in zip(sums[index], new, strict=True)] if index in sums else new

    with evaluation_mode(model):
        for batch in images.split(BATCH_SIZE):
            model.run(model.embed(batch), tap)
    moments: list[Moments | None] = [None] * (2 * model.config.num_layers)
    for index, (total, squares, class_squares) in sums.items():
        count, tokens = len(images), len(total)
        mean = total / count
        moments[index] = Moments(
            mean=mean.to(model.positions),
            all_tokens=(squares - count * mean.T @ mean) / (count * tokens),
            class_token=(class_squares - count * torch.outer(mean[0], mean[0])) / count,
        )
    return moments


def ridge_penalty(ridge: float, variances: Tensor, squares: Tensor) -> Tensor:
    """λ for activations with these ``variances (m,)``, which were computed from their mean ``squares (m,)``.

    Of activations that never vary only rounding errors are left, which may be negative.
    """
    rounding = 1e-10 * squares.mean() + torch.finfo(squares.dtype).tiny
    return ridge * variances.mean().clamp(min=0) + rounding


def precise_device(device: torch.device) -> torch.device:
    """Where sums are taken in double precision: on ``device``, or on the CPU if it has none."""
    return torch.device("cpu") if device.type == "mps" else device


def _inner(sublayer: Attention | Mlp, kept: Tensor) -> Tensor:
    """The inner activations ``(m,)`` of the heads or neurons ``kept``, as increasing indices."""
    if isinstance(sublayer, Mlp):
        return kept
    width = sublayer.out.weight.shape[1] // sublayer.num_heads
    return (kept[:, None] * width + torch.arange(width, device=kept.device)).flatten()


def _others(kept: Tensor, count: int) -> Tensor:
    """The indices below ``count`` that are not in ``kept``."""
    is_gone = torch.ones(count, dtype=torch.bool, device=kept.device)
    is_gone[kept] = False
    return is_gone.nonzero().flatten()
