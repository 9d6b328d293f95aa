"""What a removed edge carries in place of its sender's output, fixed before any search.

Legend of dimensions: b images, t tokens, d width of the stream, h heads of a layer, k width of a head, n neurons.

With zero, mean and optimal ablation it is the same for every image and can be folded into a smaller model. With
resample and noise ablation it is the sender's output on another image, or on the same image with noise; which one
depends on the image's index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from vitprune.circuit.activations import Activations, run_whole
from vitprune.core.model.vit import ViT
from vitprune.errors import CircuitError

BATCH_SIZE = 256
"""Images that go through the model at once when means are computed; the result does not depend on it."""

AblationKind = Literal["zero", "mean", "optimal", "resample", "noise"]
FOLDABLE = ("zero", "mean", "optimal")
"""The kinds that are the same for every image, so that they fit into the biases of a smaller model."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What replaces the activations of removed senders; made by one of the class methods or by ``optimal_ablation``.

    ``zero``, ``mean`` and ``optimal`` have ``embed (t, d)``, and ``heads (h, t, k)`` and ``neurons (t, n)`` of each
    layer, which are empty for others. ``resample`` has its source images in ``sources (b, c, height, width)``.
    ``noise`` has the standard deviation ``std`` of the noise, in units of the normalised images, and its ``seed``.
    """

    kind: AblationKind
    embed: Tensor
    heads: tuple[Tensor, ...] = ()
    neurons: tuple[Tensor, ...] = ()
    sources: Tensor = field(default_factory=lambda: torch.empty(0))
    std: float = 0.0
    seed: int = 0

    @classmethod
    def zero(cls, model: ViT) -> Ablation:
        """Removed edges carry zero."""
        config, like = model.config, model.positions.detach()
        return cls(
            kind="zero",
            embed=torch.zeros_like(like),
            heads=tuple(like.new_zeros(heads, config.num_tokens, config.d_head) for heads in config.layer_heads),
            neurons=tuple(like.new_zeros(config.num_tokens, neurons) for neurons in config.layer_neurons),
        )

    @classmethod
    def mean(cls, model: ViT, images: Tensor) -> Ablation:
        """Removed edges carry their sender's mean output over ``images (b, c, height, width)``, token by token.

        Raises CircuitError if there are no images or the model cannot take them.
        """
        _check_reference("mean", model, images)
        zero = cls.zero(model)
        # Summed in double precision where the device has it, so that the means do not depend on the batching.
        precise = torch.float32 if images.device.type == "mps" else torch.float64
        totals = [torch.zeros_like(values, dtype=precise) for values in (zero.embed, *zero.heads, *zero.neurons)]
        for batch in images.split(BATCH_SIZE):
            _, activations = run_whole(model, batch)
            heads = (heads.transpose(0, 1) for heads in activations.heads)
            for total, values in zip(totals, (activations.embed, *heads, *activations.neurons), strict=True):
                total += values.sum(dim=0, dtype=precise)
        embed, *rest = ((total / len(images)).to(zero.embed.dtype) for total in totals)
        layers = model.config.num_layers
        return cls(kind="mean", embed=embed, heads=tuple(rest[:layers]), neurons=tuple(rest[layers:]))

    @classmethod
    def resample(cls, model: ViT, images: Tensor, seed: int = 0) -> Ablation:
        """Removed edges carry their sender's output on another image: one of ``images``, shuffled by ``seed``.

        The image with index i is paired with source i, modulo the number of sources. On ``images`` themselves, no image
        is paired with itself.

        Raises CircuitError for fewer than two images or images that the model cannot take.
        """
        _check_reference("resample", model, images)
        if len(images) < 2:
            raise CircuitError("resample ablation needs at least two reference images, got one")
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        partner = torch.empty_like(order)
        # One cycle through all images, so that no image is its own partner.
        partner[order] = order.roll(1)
        return cls(
            kind="resample", embed=images.new_empty(0), sources=images[partner.to(images.device)].clone(), seed=seed
        )

    @classmethod
    def noise(cls, model: ViT, std: float, seed: int = 0) -> Ablation:
        """Removed edges carry their sender's output on the same image with Gaussian noise added to its pixels.

        ``std`` is in units of the normalised images. The image with index i always gets the same noise.

        Raises CircuitError for a deviation that is not above zero.
        """
        if not (math.isfinite(std) and std > 0):
            raise CircuitError(f"the noise's standard deviation must be a finite number above 0, got {std}")
        return cls(kind="noise", embed=model.positions.detach().new_empty(0), std=std, seed=seed)

    @property
    def foldable(self) -> bool:
        """Whether removed edges carry the same for every image, which then fits into the biases of a smaller model."""
        return self.kind in FOLDABLE

    def check(self, model: ViT) -> None:
        """CircuitError if the values were made for a model of another shape."""
        config = model.config
        if not self.foldable:
            if self.kind == "resample":
                _check_reference("resample", model, self.sources)
            return
        shapes = [tuple(values.shape) for values in (self.embed, *self.heads, *self.neurons)]
        expected: list[tuple[int, ...]] = [(config.num_tokens, config.d_model)]
        expected += [(heads, config.num_tokens, config.d_head) for heads in config.layer_heads]
        expected += [(config.num_tokens, neurons) for neurons in config.layer_neurons]
        if shapes != expected:
            raise CircuitError(
                f"the ablation was made for another model: this one has heads {list(config.layer_heads)}, neurons "
                f"{list(config.layer_neurons)}, {config.num_tokens} tokens and width {config.d_model}"
            )

    def activations(self, model: ViT, images: Tensor, first: int) -> Activations:
        """What replaces the activations of removed senders on ``images``, the first of which has the index ``first``.

        Raises CircuitError if the ablation was made for another model.
        """
        return self.activations_at(model, images, range(first, first + len(images)))

    @torch.no_grad()
    def activations_at(self, model: ViT, images: Tensor, indices: Sequence[int]) -> Activations:
        """The same on images with these indices, which need not be consecutive."""
        self.check(model)
        if self.foldable:
            return Activations(
                embed=self.embed[None],
                heads=tuple(heads[:, None] for heads in self.heads),
                neurons=tuple(neurons[None] for neurons in self.neurons),
            )
        return run_whole(model, self._sources_of(images, indices))[1]

    def on(self, images: Tensor, indices: Sequence[int]) -> Ablation:
        """The ablation under which image n is replaced as image ``indices[n]`` of ``images`` is under this one."""
        if self.foldable:
            return self
        sources = self._sources_of(images[torch.tensor(indices, device=images.device)], indices)
        return replace(self, kind="resample", sources=sources, std=0.0)

    def _sources_of(self, images: Tensor, indices: Sequence[int]) -> Tensor:
        """The images whose activations replace those of ``images``, which have these indices."""
        if self.kind == "resample":
            return self.sources[torch.tensor(indices, device=self.sources.device) % len(self.sources)]
        noises = [
            torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(self.seed * 1_000_003 + index))
            for index in indices
        ]
        return images + self.std * torch.stack(noises).to(images)


def _check_reference(kind: str, model: ViT, images: Tensor) -> None:
    if len(images) == 0:
        raise CircuitError(f"{kind} ablation needs at least one reference image, got none")
    config = model.config
    expected = (config.in_channels, config.image_size, config.image_size)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise CircuitError(
            f"{kind} ablation: the model takes reference images (batch, {', '.join(map(str, expected))}), got "
            f"{tuple(images.shape)}"
        )
