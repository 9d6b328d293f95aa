"""A model with heads and neurons taken out and put back one after another, evaluated from the place of the change on.

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
from vitprune.model.vit import Attention, Mlp, ViT, ViTConfig
from vitprune.pruning.compact import Survivors, copy_heads, copy_neurons


@dataclass(frozen=True)
class Unit:
    """Heads or neurons of one sublayer that go together, by their indices in the whole model."""

    sublayer: int
    name: str
    members: tuple[int, ...]


class _Sublayer:
    """What is left of an attention or an MLP, and the constant ``(t, d)`` that stands for the rest and the bias."""

    def __init__(self, config: ViTConfig, whole: Attention | Mlp, means: Tensor, kept: Tensor) -> None:
        self._config, self._whole, self._means = config, whole, means
        self.kept = kept
        gone = torch.ones(len(means), dtype=torch.bool)
        gone[kept] = False
        weight = rearrange(whole.out.weight, "d (m w) -> m d w", m=len(means))
        columns = rearrange(weight[gone], "m d w -> d (m w)")
        self._constant = whole.out.bias + rearrange(means[gone], "m t w -> t (m w)") @ columns.T
        self._part: Attention | Mlp | None = None
        if len(kept) and isinstance(whole, Attention):
            self._part = Attention(config, len(kept)).to(means)
            copy_heads(whole, self._part, kept)
        elif len(kept) and isinstance(whole, Mlp):
            self._part = Mlp(config, len(kept)).to(means)
            copy_neurons(whole, self._part, kept)

    def keeping(self, kept: Tensor) -> _Sublayer:
        """The same sublayer of which these members are left."""
        return _Sublayer(self._config, self._whole, self._means, kept)

    def __call__(self, stream: Tensor, tokens: int | None) -> Tensor:
        """The stream behind it, ``(b, t, d)``, from the one before it; of the first ``tokens`` if so asked."""
        after = stream[:, :tokens] + self._constant[: tokens or len(self._constant)]
        if isinstance(self._part, Attention):
            # The bias of the part is zero: it is in the constant.
            return after + self._part(stream, tokens)
        return after if self._part is None else after + self._part(stream[:, :tokens])


class PartialModel:
    """A ViT out of which units are taken and back into which they are put.

    On its images it knows how far its answers are from the whole model's. Units that are gone give their mean by
    ``ablation``, as in the circuit without them.
    """

    @torch.no_grad()
    def __init__(self, model: ViT, images: Tensor, ablation: Ablation) -> None:
        ablation.check(model)
        self._model = model
        self._sublayers: list[_Sublayer | None] = []
        for layer, block in enumerate(model.blocks):
            neurons = rearrange(ablation.neurons[layer], "t n -> n t 1")
            for part, means in ((block.attention, ablation.heads[layer]), (block.mlp, neurons)):
                whole = None if part is None else _Sublayer(model.config, part, means, torch.arange(len(means)))
                self._sublayers.append(whole)
        self._streams = [model.embed(images)]
        self._reference: Reference | None = None
        self._reference = Reference.of(self._run_from(0))
        self.kl = 0.0

    @property
    def kept(self) -> tuple[tuple[int, ...], ...]:
        """What is left of each sublayer: heads or neurons by their indices in the whole model."""
        return tuple(() if part is None else tuple(part.kept.tolist()) for part in self._sublayers)

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
        """The shape of the compact model if ``unit``, too, were gone."""
        return self._config_with(unit, -len(unit.members))

    def config_with(self, unit: Unit) -> ViTConfig:
        """The shape of the compact model if ``unit`` were back."""
        return self._config_with(unit, len(unit.members))

    def units(self, group_size: int) -> list[Unit]:
        """What is left, in parts that can be taken out: each head and each group of neighbouring neurons."""
        found = []
        for place, part in enumerate(self._sublayers):
            kept = [] if part is None else part.kept.tolist()
            size, kind = (group_size, "g") if place % 2 else (1, "h")
            groups = [tuple(kept[start : start + size]) for start in range(0, len(kept), size)]
            for number, group in enumerate(groups):
                found.append(Unit(place, f"{sublayer_name(place)}.{kind}{number if place % 2 else group[0]}", group))
        return found

    @torch.no_grad()
    def kl_without(self, unit: Unit) -> float:
        """KL(whole ‖ this without ``unit``) in nats, mean over the images."""
        return self._kl_keeping(unit.sublayer, self._left(unit))

    @torch.no_grad()
    def kl_with(self, unit: Unit) -> float:
        """The same with a ``unit`` that is gone."""
        return self._kl_keeping(unit.sublayer, self._joined(unit))

    @torch.no_grad()
    def remove(self, unit: Unit) -> None:
        """Take a unit out."""
        self._keep(unit.sublayer, self._left(unit))

    @torch.no_grad()
    def restore(self, unit: Unit) -> None:
        """Put a unit back that is gone."""
        self._keep(unit.sublayer, self._joined(unit))

    @torch.no_grad()
    def keep(self, kept: Sequence[Sequence[int]]) -> None:
        """Of each sublayer have these members, whatever is left now; as ``kept`` gave them."""
        for place, members in enumerate(kept):
            if (part := self._sublayers[place]) is not None and tuple(part.kept.tolist()) != tuple(members):
                self._sublayers[place] = part.keeping(torch.tensor(members, dtype=torch.long))
        self.kl = self._distance(self._run_from(0))

    def _part(self, place: int) -> _Sublayer:
        part = self._sublayers[place]
        assert part is not None
        return part

    def _left(self, unit: Unit) -> Tensor:
        kept = self._part(unit.sublayer).kept
        return kept[~torch.isin(kept, torch.tensor(unit.members))]

    def _joined(self, unit: Unit) -> Tensor:
        return torch.cat([self._part(unit.sublayer).kept, torch.tensor(unit.members)]).unique()

    def _counts(self) -> list[int]:
        return [0 if part is None else len(part.kept) for part in self._sublayers]

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

    def _kl_keeping(self, place: int, kept: Tensor) -> float:
        counts = self._counts()
        counts[place] = len(kept)
        old, new = self.config.first_short_layer, self._config_of(counts).first_short_layer
        first = self._first_changed(place, old, new)
        stream = self._streams[first]
        for number, part in enumerate(self._sublayers[first:], first):
            if part is not None:
                changed = part.keeping(kept) if number == place else part
                stream = changed(stream, _tokens(number, new))
        return self._distance(self._model.classify(stream))

    def _keep(self, place: int, kept: Tensor) -> None:
        old = self.config.first_short_layer
        self._sublayers[place] = self._part(place).keeping(kept)
        self.kl = self._distance(self._run_from(self._first_changed(place, old, self.config.first_short_layer)))

    def _first_changed(self, place: int, old: int, new: int) -> int:
        """The first sublayer whose remembered stream is still right, if the class token is alone from ``new`` on."""
        return place if old == new else min(place, 2 * old, 2 * new)

    def _run_from(self, first: int) -> Tensor:
        """Logits; remembers the stream before every sublayer from ``first`` on."""
        del self._streams[first + 1 :]
        short = self.config.first_short_layer
        for place, part in enumerate(self._sublayers[first:], first):
            stream = self._streams[-1]
            self._streams.append(stream if part is None else part(stream, _tokens(place, short)))
        return self._model.classify(self._streams[-1])

    def _distance(self, logits: Tensor) -> float:
        assert self._reference is not None
        return damage(kl, logits, self._reference).mean().item()


def sublayer_name(place: int) -> str:
    """``a0`` for the attention of the first layer, ``m0`` for its MLP."""
    return f"{'am'[place % 2]}{place // 2}"


def _tokens(place: int, first_short_layer: int) -> int | None:
    """How many tokens a sublayer computes, None for all."""
    return 1 if place // 2 >= first_short_layer else None
