"""The refit: a compact model's output maps are fitted anew, one after the other, to the streams of the whole model.

Legend of dimensions: b images, t tokens, d width of the stream, m inner width of a surviving sublayer.

The affine fold of one sublayer knows nothing of what others lost. The refit walks the compact model from its input to
its output. At each surviving sublayer, with the stream x that arrives there and its inner activations a, it fits weight
W and biases so that x + W a + bias(t) comes closest to the stream of the whole model *as the next surviving sublayer
reads it*. So a sublayer also makes up for those behind it that are gone as a whole, and for the errors of all before it
(after the linear correction of Kwon et al. 2022, arXiv 2204.09656). The ridge regression is drawn towards the weights
that the fold left; from the last attention on only the class token counts.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from einops import rearrange
from torch import Tensor

from vitprune.circuit.metrics import kl_divergence
from vitprune.core.model.predict import evaluation_mode
from vitprune.core.model.vit import Attention, Intermediate, Mlp, ViT
from vitprune.pruning.fold import BATCH_SIZE, precise_device, ridge_penalty

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""λ that are tried at each sublayer, in units of the mean variance of its activations."""
HELD_OUT = 5
"""On every so many-th image λ is chosen, and whether the refit is better than the fold."""


@torch.no_grad()
def refit(small: ViT, model: ViT, images: Tensor) -> ViT:
    """``small``, a compact model of ``model``, fitted to its streams on normalised ``images (b, c, height, width)``.

    λ is chosen on images that are held out from a first fit; a second one takes all images. Returns ``small`` itself if
    the first fit has no lower KL than it on the images held out.
    """
    # Every fifth: the images may be in the order of their classes.
    is_test = torch.arange(len(images), device=images.device) % HELD_OUT == 0
    test, fit = images[is_test], images[~is_test]
    if not len(fit):
        return small
    first, ridges = _fitted(small, model, fit, test, None)
    if not _is_better(first, small, model, test):
        return small
    return _fitted(small, model, images, images[:0], ridges)[0]


def _fitted(
    small: ViT, model: ViT, images: Tensor, test: Tensor, ridges: Sequence[float] | None
) -> tuple[ViT, list[float]]:
    """One walk: the fitted model, and the λ of each sublayer, which are chosen on ``test`` unless given."""
    result = copy.deepcopy(small)
    with evaluation_mode(model), evaluation_mode(result):
        walks = [_Walk(result, model, part) for part in (images, test) if len(part)]
        survivors = [(index, sublayer) for index, sublayer in enumerate(_sublayers(result)) if sublayer is not None]
        ends = [*(index for index, _ in survivors), 2 * model.config.num_layers]
        # What stands for the sublayers that are gone before the first survivor is in the positions.
        shift = walks[0].shift_to(ends[0])
        result.positions.add_(shift)
        for walk in walks:
            walk.student += shift
        chosen: list[float] = []
        for place, (index, sublayer) in enumerate(survivors):
            sums = [walk.sums(index, sublayer, until=ends[place + 1]) for walk in walks]
            candidates = RIDGES if ridges is None else [ridges[place]]
            solutions = [sums[0].solution(sublayer.out.weight, ridge) for ridge in candidates]
            errors = [sums[-1].error(*solution) for solution in solutions]
            best = errors.index(min(errors))
            weight, bias = solutions[best]
            chosen.append(candidates[best])
            sublayer.out.weight.copy_(weight)
            sublayer.out.bias[: len(bias)] = bias.to(sublayer.out.bias)
            for walk in walks:
                walk.step(index, sublayer)
    return result, chosen


class _Walk:
    """The streams of the whole model and of the compact one side by side, on their way through the sublayers.

    ``teacher`` is the whole model's stream before the sublayer that was asked for last, ``student`` the compact model's
    before the next one to fit; both hold all images, ``(b, t, d)``, and the student the class token alone once the
    compact model computes no more.
    """

    def __init__(self, small: ViT, model: ViT, images: Tensor) -> None:
        self._small, self._model = small, model
        self._teacher_index = 0
        self._teacher = torch.cat([model.embed(batch) for batch in images.split(BATCH_SIZE)])
        self.student = torch.cat([small.embed(batch) for batch in images.split(BATCH_SIZE)])

    def shift_to(self, index: int) -> Tensor:
        """The mean ``(t, d)`` of what is missing in the student's stream for it to be the teacher's at ``index``."""
        self._advance(index)
        return (self._teacher - self.student).mean(dim=0)

    def sums(self, index: int, sublayer: Attention | Mlp, until: int) -> _Sums:
        """The sums over the images for fitting ``sublayer`` to the teacher's stream before sublayer ``until``."""
        self._advance(until)
        tokens = self._tokens(index)
        sums = None
        for student, teacher in zip(self.student.split(BATCH_SIZE), self._teacher.split(BATCH_SIZE), strict=True):
            more = _Sums.of(_inner(sublayer, student, tokens), teacher[:, :tokens] - student[:, :tokens])
            sums = more if sums is None else sums + more
        assert sums is not None
        return sums

    def step(self, index: int, sublayer: Attention | Mlp) -> None:
        """Take the student through ``sublayer``, fitted by now."""
        tokens = self._tokens(index)
        self.student = torch.cat([_after(sublayer, batch, tokens) for batch in self.student.split(BATCH_SIZE)])

    def _tokens(self, index: int) -> int | None:
        return 1 if index // 2 >= self._small.config.first_short_layer else None

    def _advance(self, until: int) -> None:
        """Take the teacher through its sublayers before ``until``."""
        while self._teacher_index < until:
            sublayer = _sublayers(self._model)[self._teacher_index]
            if sublayer is not None:
                self._teacher = torch.cat([_after(sublayer, batch, None) for batch in self._teacher.split(BATCH_SIZE)])
            self._teacher_index += 1


@dataclass(frozen=True)
class _Sums:
    """Sums over images and tokens for a regression of y ``(b, t, d)`` on a ``(b, t, m)``, in double precision.

    ``a (t, m)`` and ``y (t, d)`` are the tokens' sums, ``aa (m, m)``, ``ay (m, d)`` and ``yy`` those of the products.
    """

    count: int
    a: Tensor
    y: Tensor
    aa: Tensor
    ay: Tensor
    yy: Tensor

    @classmethod
    def of(cls, a: Tensor, y: Tensor) -> _Sums:
        a, y = a.to(precise_device(a.device), torch.float64), y.to(precise_device(y.device), torch.float64)
        return cls(
            count=len(a),
            a=a.sum(dim=0),
            y=y.sum(dim=0),
            aa=torch.einsum("btm,btn->mn", a, a),
            ay=torch.einsum("btm,btd->md", a, y),
            yy=(y * y).sum(),
        )

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def solution(self, prior: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
        """Weight ``(d, m)`` and biases ``(t, d)`` of the ridge regression that is drawn towards ``prior (d, m)``."""
        aa, ay, _ = self._centred()
        within = aa.clone()
        within.diagonal().add_(ridge_penalty(ridge, aa.diagonal(), self.aa.diagonal()))
        prior = prior.to(aa)
        # Solved for the step away from the prior: it is exactly zero where there is nothing to learn.
        step = torch.cholesky_solve(ay - aa @ prior.T, torch.linalg.cholesky(within)).T
        weight = prior + step
        return weight, (self.y - self.a @ weight.T) / self.count

    def error(self, weight: Tensor, bias: Tensor) -> float:
        """The sum of squared errors of y ≈ weight a + bias(t)."""
        aa, ay, yy = self._centred()
        offsets = (self.y - self.a @ weight.T) / self.count - bias
        around = yy - 2 * (weight.T * ay).sum() + ((weight @ aa) * weight).sum()
        return float(around + self.count * offsets.square().sum())

    def _centred(self) -> tuple[Tensor, Tensor, Tensor]:
        """The sums of products around each token's own means."""
        n = self.count
        return self.aa - self.a.T @ self.a / n, self.ay - self.a.T @ self.y / n, self.yy - self.y.square().sum() / n


def _sublayers(model: ViT) -> list[Attention | Mlp | None]:
    return [sublayer for block in model.blocks for sublayer in (block.attention, block.mlp)]


def _after(sublayer: Attention | Mlp, stream: Tensor, tokens: int | None) -> Tensor:
    """The stream after a sublayer, ``(b, t, d)``, or its first ``tokens``."""
    if isinstance(sublayer, Attention):
        return stream[:, :tokens] + sublayer(stream, tokens)
    return stream[:, :tokens] + sublayer(stream[:, :tokens])


def _inner(sublayer: Attention | Mlp, stream: Tensor, tokens: int | None) -> Tensor:
    """The inner activations ``(b, t, m)`` of a sublayer that reads ``stream``, or those of its first ``tokens``."""
    seen: list[Tensor] = []

    def tap(kind: Intermediate, value: Tensor) -> None:
        if kind in ("heads", "neurons"):
            seen.append(value)

    if isinstance(sublayer, Mlp):
        sublayer(stream[:, :tokens], tap)
        return seen[0]
    sublayer(stream, tokens, tap)
    return rearrange(seen[0], "b h t k -> b t (h k)")


def _is_better(fitted: ViT, small: ViT, model: ViT, images: Tensor) -> bool:
    """Whether ``fitted`` has a lower KL to ``model`` than ``small`` has."""
    with evaluation_mode(model), evaluation_mode(small), evaluation_mode(fitted):
        full, now, before = (
            torch.cat([of(batch) for batch in images.split(BATCH_SIZE)]) for of in (model, fitted, small)
        )
    return kl_divergence(full, now) < kl_divergence(full, before)
