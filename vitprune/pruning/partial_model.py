"""A model out of which heads and neurons are taken and into which they are put back, and its KL to the whole model.

Legend of dimensions: b images, t tokens, d width of the stream, h heads, k width of a head, n neurons of a layer.

Sublayers are numbered through the model: attention and MLP of layer 0, attention and MLP of layer 1, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.metrics import Reference, damage, kl
from vitprune.core.model.vit import Attention, Mlp, ViT, ViTConfig
from vitprune.pruning.compact import Survivors, copy_heads, copy_neurons


@dataclass(frozen=True)
class Unit:
    """Heads or neurons of one sublayer that go together; ``members`` are their indices in the whole model."""

    sublayer: int
    name: str
    members: tuple[int, ...]


class _Sublayer:
    """What is left of an attention or an MLP, and the constant ``(t, d)`` that stands for the rest and the bias."""

    def __init__(self, config: ViTConfig, whole: Attention | Mlp, means: Tensor, kept: Tensor) -> None:
        self._config, self._whole, self._means = config, whole, means
        self.kept = kept
        is_removed = torch.ones(len(means), dtype=torch.bool)
        is_removed[kept] = False
        weight = rearrange(whole.out.weight, "d (m w) -> m d w", m=len(means))
        columns = rearrange(weight[is_removed], "m d w -> d (m w)")
        self._constant = whole.out.bias + rearrange(means[is_removed], "m t w -> t (m w)") @ columns.T
        self._module: Attention | Mlp | None = None
        if len(kept) and isinstance(whole, Attention):
            self._module = Attention(config, len(kept)).to(means)
            copy_heads(whole, self._module, kept)
        elif len(kept) and isinstance(whole, Mlp):
            self._module = Mlp(config, len(kept)).to(means)
            copy_neurons(whole, self._module, kept)

    def keeping(self, kept: Tensor) -> _Sublayer:
        """The same sublayer with only these members left."""
        return _Sublayer(self._config, self._whole, self._means, kept)

    def __call__(self, stream: Tensor, tokens: int | None) -> Tensor:
        """The stream ``(b, t, d)`` after this sublayer, of the first ``tokens`` if given, from the one before it."""
        after = stream[:, :tokens] + self._constant[: tokens or len(self._constant)]
        if isinstance(self._module, Attention):
            # The module's own bias is zero: it is in the constant.
            return after + self._module(stream, tokens)
        return after if self._module is None else after + self._module(stream[:, :tokens])


class PartialModel:
    """A ViT without some of its units, and how far its predictions are from the whole model's on some images.

    Removed units give their mean by ``ablation``, as in the circuit without them. If there are more than ``batch_size``
    images, they go through the model in batches and no stream is kept: that takes less memory and more time.
    """

    @torch.no_grad()
    def __init__(self, model: ViT, images: Tensor, ablation: Ablation, batch_size: int | None = None) -> None:
        ablation.check(model)
        self._model = model
        self._sublayers: list[_Sublayer | None] = []
        for layer, block in enumerate(model.blocks):
            neurons = rearrange(ablation.neurons[layer], "t n -> n t 1")
            for module, means in ((block.attention, ablation.heads[layer]), (block.mlp, neurons)):
                whole = None if module is None else _Sublayer(model.config, module, means, torch.arange(len(means)))
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
                self._sublayers[index] = sublayer.keeping(torch.tensor(members, dtype=torch.long))
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
        counts = self._counts()
        counts[index] = len(kept)
        short = self._config_of(counts).first_short_layer
        sublayers = [*self._sublayers]
        sublayers[index] = self._sublayer(index).keeping(kept)
        if self._streams is None:
            return self._distance(self._logits_in_batches(sublayers, short))
        first = _first_changed(index, self.config.first_short_layer, short)
        stream = self._streams[first]
        for number, sublayer in enumerate(sublayers[first:], first):
            stream = _apply(sublayer, stream, number, short)
        return self._distance(self._model.classify(stream))

    def _keep(self, index: int, kept: Tensor) -> None:
        before = self.config.first_short_layer
        self._sublayers[index] = self._sublayer(index).keeping(kept)
        first = _first_changed(index, before, self.config.first_short_layer)
        self.kl = self._distance(self._update_streams(first))

    def _update_streams(self, first: int) -> Tensor:
        """Logits ``(b, classes)``; the stream before every sublayer from ``first`` on is kept, if streams are."""
        short = self.config.first_short_layer
        if self._streams is None:
            return self._logits_in_batches(self._sublayers, short)
        del self._streams[first + 1 :]
        for index, sublayer in enumerate(self._sublayers[first:], first):
            self._streams.append(_apply(sublayer, self._streams[-1], index, short))
        return self._model.classify(self._streams[-1])

    def _logits_in_batches(self, sublayers: Sequence[_Sublayer | None], short: int) -> Tensor:
        logits = []
        for batch in self._batches:
            stream = self._model.embed(batch)
            for index, sublayer in enumerate(sublayers):
                stream = _apply(sublayer, stream, index, short)
            logits.append(self._model.classify(stream))
        return torch.cat(logits)

    def _distance(self, logits: Tensor) -> float:
        return damage(kl, logits, self._reference).mean().item()


def sublayer_name(index: int) -> str:
    """``a0`` for the attention of the first layer, ``m0`` for its MLP."""
    return f"{'am'[index % 2]}{index // 2}"


def _apply(sublayer: _Sublayer | None, stream: Tensor, index: int, first_short_layer: int) -> Tensor:
    """The stream after a sublayer, of the class token alone from ``first_short_layer`` on."""
    return stream if sublayer is None else sublayer(stream, 1 if index // 2 >= first_short_layer else None)


def _first_changed(index: int, short_before: int, short_after: int) -> int:
    """The first sublayer that must be computed again when one changes, and with it the first short layer."""
    return index if short_before == short_after else min(index, 2 * short_before, 2 * short_after)
