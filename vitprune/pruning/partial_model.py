"""A model out of which heads and neurons are taken and into which they are put back, and its KL to the whole model.

Legend of dimensions: b images, t tokens, d width of the stream, h heads, k width of a head, n neurons of a layer.

Sublayers are numbered through the model: attention and MLP of layer 0, attention and MLP of layer 1, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vitprune.circuit.metrics import Reference, damage, kl
from vitprune.core.model.vit import Attention, Mlp, ViT, ViTConfig
from vitprune.pruning.compact import Survivors, copy_heads, copy_neurons
from vitprune.pruning.fold import Fold


@dataclass(frozen=True)
class Unit:
    """Heads or neurons of one sublayer that go together; ``members`` are their indices in the whole model."""

    sublayer: int
    name: str
    members: tuple[int, ...]


class _Sublayer:
    """What is left of an attention or an MLP, and the bias ``(t, d)`` that stands for the rest.

    ``is_short`` says that it computes the class token alone.
    """

    def __init__(self, model: ViT, fold: Fold, index: int, kept: Tensor, *, is_short: bool) -> None:
        self._model, self._fold, self._index = model, fold, index
        self.kept, self.is_short = kept, is_short
        block = model.blocks[index // 2]
        folded = fold.of(index, kept, is_short=is_short)
        self._bias = folded.bias
        self._module: Attention | Mlp | None = None
        if len(kept) and index % 2 == 0 and block.attention is not None:
            self._module = Attention(model.config, len(kept)).to(folded.weight)
            copy_heads(block.attention, self._module, kept)
        elif len(kept) and block.mlp is not None:
            self._module = Mlp(model.config, len(kept)).to(folded.weight)
            copy_neurons(block.mlp, self._module, kept)
        if self._module is not None:
            self._module.out.weight.copy_(folded.weight)

    def keeping(self, kept: Tensor, *, is_short: bool) -> _Sublayer:
        """The same sublayer with only these members left."""
        if is_short == self.is_short and torch.equal(kept, self.kept):
            return self
        return _Sublayer(self._model, self._fold, self._index, kept, is_short=is_short)

    def __call__(self, stream: Tensor) -> Tensor:
        """The stream after this sublayer, from the one before it, both ``(b, t, d)``."""
        tokens = 1 if self.is_short else None
        after = stream[:, :tokens] + (self._bias[:tokens] if self._bias.ndim == 2 else self._bias)
        if isinstance(self._module, Attention):
            # The module's own bias is zero: it is in that of the fold.
            return after + self._module(stream, tokens)
        return after if self._module is None else after + self._module(stream[:, :tokens])


class PartialModel:
    """A ViT without some of its units, and how far its predictions are from the whole model's on some images.

    ``fold`` says how the others make up for removed units. If there are more than ``batch_size`` images, they go
    through the model in batches and no stream is kept: that takes less memory and more time.
    """

    @torch.no_grad()
    def __init__(self, model: ViT, images: Tensor, fold: Fold, batch_size: int | None = None) -> None:
        self._model = model
        self._sublayers: list[_Sublayer | None] = []
        config = model.config
        for layer in range(config.num_layers):
            is_short = layer >= config.first_short_layer
            for index, count in ((2 * layer, config.layer_heads[layer]), (2 * layer + 1, config.layer_neurons[layer])):
                whole = _Sublayer(model, fold, index, torch.arange(count), is_short=is_short) if count else None
                self._sublayers.append(whole)
        self._batches = images.split(batch_size or len(images))
        # The stream before every sublayer, so that a change is evaluated from its sublayer on.
        self._streams = [model.embed(images)] if len(self._batches) == 1 else None
        self._reference = Reference.of(self._update_streams(0))
        self.kl = 0.0

    @property
    def kept(self) -> tuple[tuple[int, ...], ...]:
        """For each sublayer the heads or neurons that are left, by their indices in the whole model."""
        return tuple(() if sublayer is None else tuple(sublayer.kept.tolist()) for sublayer in self._sublayers)

    @property
    def survivors(self) -> Survivors:
        """The heads and neurons that are left."""
        kept = [torch.tensor(members, dtype=torch.long) for members in self.kept]
        return Survivors(heads=tuple(kept[0::2]), neurons=tuple(kept[1::2]))

    @property
    def config(self) -> ViTConfig:
        """The shape of the compact model."""
        return self._config_of(self._counts())

    def config_without(self, unit: Unit) -> ViTConfig:
        """The shape of the compact model once ``unit`` is removed as well."""
        return self._config_with(unit, -len(unit.members))

    def config_with(self, unit: Unit) -> ViTConfig:
        """The shape of the compact model once ``unit`` is restored."""
        return self._config_with(unit, len(unit.members))

    def units(self, group_size: int) -> list[Unit]:
        """The units that are left: each head, and each group of ``group_size`` neighbouring neurons."""
        units = []
        for index, sublayer in enumerate(self._sublayers):
            kept = [] if sublayer is None else sublayer.kept.tolist()
            is_mlp = index % 2 == 1
            size = group_size if is_mlp else 1
            groups = [tuple(kept[start : start + size]) for start in range(0, len(kept), size)]
            for number, group in enumerate(groups):
                name = f"g{number}" if is_mlp else f"h{group[0]}"
                units.append(Unit(index, f"{sublayer_name(index)}.{name}", group))
        return units

    @torch.no_grad()
    def kl_without(self, unit: Unit) -> float:
        """KL(whole ‖ this without ``unit``) in nats, mean over the images."""
        return self._kl_keeping(unit.sublayer, self._kept_without(unit))

    @torch.no_grad()
    def kl_with(self, unit: Unit) -> float:
        """KL(whole ‖ this with the removed ``unit`` restored) in nats, mean over the images."""
        return self._kl_keeping(unit.sublayer, self._kept_with(unit))

    @torch.no_grad()
    def remove(self, unit: Unit) -> None:
        """Take a unit out."""
        self._keep(unit.sublayer, self._kept_without(unit))

    @torch.no_grad()
    def restore(self, unit: Unit) -> None:
        """Put a removed unit back."""
        self._keep(unit.sublayer, self._kept_with(unit))

    @torch.no_grad()
    def keep(self, kept: Sequence[Sequence[int]]) -> None:
        """Keep exactly these members of each sublayer, as the property ``kept`` gave them."""
        for index, members in enumerate(kept):
            sublayer = self._sublayers[index]
            if sublayer is not None and tuple(sublayer.kept.tolist()) != tuple(members):
                self._sublayers[index] = sublayer.keeping(torch.tensor(members, dtype=torch.long), is_short=False)
        self._shorten(self._sublayers, self.config.first_short_layer)
        self.kl = self._distance(self._update_streams(0))

    def _sublayer(self, index: int) -> _Sublayer:
        sublayer = self._sublayers[index]
        assert sublayer is not None
        return sublayer

    def _kept_without(self, unit: Unit) -> Tensor:
        kept = self._sublayer(unit.sublayer).kept
        return kept[~torch.isin(kept, torch.tensor(unit.members))]

    def _kept_with(self, unit: Unit) -> Tensor:
        return torch.cat([self._sublayer(unit.sublayer).kept, torch.tensor(unit.members)]).unique()

    def _counts(self) -> list[int]:
        return [0 if sublayer is None else len(sublayer.kept) for sublayer in self._sublayers]

    def _config_with(self, unit: Unit, more: int) -> ViTConfig:
        counts = self._counts()
        counts[unit.sublayer] += more
        return self._config_of(counts)

    def _config_of(self, counts: list[int]) -> ViTConfig:
        return replace(
            self._model.config,
            heads_per_layer=tuple(counts[0::2]),
            neurons_per_layer=tuple(counts[1::2]),
            token_biases=True,
        )

    def _kl_keeping(self, index: int, kept: Tensor) -> float:
        sublayers, first = self._changed(index, kept)
        if self._streams is None:
            return self._distance(self._logits_in_batches(sublayers))
        stream = self._streams[first]
        for sublayer in sublayers[first:]:
            stream = stream if sublayer is None else sublayer(stream)
        return self._distance(self._model.classify(stream))

    def _keep(self, index: int, kept: Tensor) -> None:
        self._sublayers, first = self._changed(index, kept)
        self.kl = self._distance(self._update_streams(first))

    def _changed(self, index: int, kept: Tensor) -> tuple[list[_Sublayer | None], int]:
        """The sublayers once one of them keeps other members, and the first that differs from now."""
        counts = self._counts()
        counts[index] = len(kept)
        before, after = self.config.first_short_layer, self._config_of(counts).first_short_layer
        sublayers = [*self._sublayers]
        sublayers[index] = self._sublayer(index).keeping(kept, is_short=index // 2 >= after)
        if before == after:
            return sublayers, index
        self._shorten(sublayers, after)
        return sublayers, min(index, 2 * before, 2 * after)

    def _shorten(self, sublayers: list[_Sublayer | None], first_short_layer: int) -> None:
        """Let the sublayers from this layer on compute the class token alone, and those before it all tokens."""
        for index, sublayer in enumerate(sublayers):
            if sublayer is not None:
                sublayers[index] = sublayer.keeping(sublayer.kept, is_short=index // 2 >= first_short_layer)

    def _update_streams(self, first: int) -> Tensor:
        """Logits ``(b, classes)``; the stream before every sublayer from ``first`` on is kept, if streams are."""
        if self._streams is None:
            return self._logits_in_batches(self._sublayers)
        del self._streams[first + 1 :]
        for sublayer in self._sublayers[first:]:
            stream = self._streams[-1]
            self._streams.append(stream if sublayer is None else sublayer(stream))
        return self._model.classify(self._streams[-1])

    def _logits_in_batches(self, sublayers: Sequence[_Sublayer | None]) -> Tensor:
        logits = []
        for batch in self._batches:
            stream = self._model.embed(batch)
            for sublayer in sublayers:
                stream = stream if sublayer is None else sublayer(stream)
            logits.append(self._model.classify(stream))
        return torch.cat(logits)

    def _distance(self, logits: Tensor) -> float:
        return damage(kl, logits, self._reference).mean().item()


def sublayer_name(index: int) -> str:
    """``a0`` for the attention of the first layer, ``m0`` for its MLP."""
    return f"{'am'[index % 2]}{index // 2}"
