"""A model with heads and neurons taken out one after another, evaluated from the place of the change on.

Legend of dimensions: b images, t tokens, d width of the stream, h heads, k width of a head, n neurons of a layer.

Sublayers are numbered through the model: attention and MLP of layer 0, attention and MLP of layer 1, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.metrics import Reference, damage, kl
from vitprune.model.vit import Attention, Mlp, ViT, ViTConfig
from vitprune.pruning.compact import Survivors, copy_heads, copy_neurons

Kind = Literal["attention", "mlp"]


@dataclass(frozen=True)
class Unit:
    """Heads or neurons of one sublayer that go together, by their indices in the whole model."""

    sublayer: int
    name: str
    members: tuple[int, ...]


class _Sublayer:
    """What is left of an attention or an MLP, and the constant ``(t, d)`` that stands for the rest and the bias."""

    def __init__(self, config: ViTConfig, whole: Attention | Mlp, means: Tensor) -> None:
        self._config, self._whole, self._means = config, whole, means
        self.kept = torch.arange(means.shape[0])
        self._narrow()

    @property
    def is_attention(self) -> bool:
        return isinstance(self._whole, Attention)

    def keep(self, kept: Tensor) -> None:
        """Only these members are left from here on."""
        self.kept = kept
        self._narrow()

    def forward(self, stream: Tensor, tokens: int | None) -> Tensor:
        """The stream behind it, ``(b, t, d)``, from the one before it; of the first ``tokens`` if so asked."""
        after = self._after_nothing(stream, tokens)
        return after + self._written(self.kept, self._activations(stream, tokens)) if len(self.kept) else after

    def without(self, members: Tensor, stream: Tensor, tokens: int | None) -> Tensor:
        """The same if these members, too, gave only their mean."""
        left = self.kept[~torch.isin(self.kept, members)]
        removed = self.kept[torch.isin(self.kept, members)]
        after = self._after_nothing(stream, tokens) + self._constant_of(removed)[: tokens or len(self._constant)]
        return after + self._written(left, self._activations(stream, tokens)) if len(left) else after

    def _narrow(self) -> None:
        gone = torch.ones(len(self._means), dtype=torch.bool)
        gone[self.kept] = False
        self._constant = self._whole.out.bias + self._constant_of(gone.nonzero().flatten())
        if not len(self.kept):
            return
        if isinstance(self._whole, Attention):
            self._narrowed: Attention | Mlp = Attention(self._config, len(self.kept)).to(self._means)
            copy_heads(self._whole, self._narrowed, self.kept)
        else:
            self._narrowed = Mlp(self._config, len(self.kept)).to(self._means)
            copy_neurons(self._whole, self._narrowed, self.kept)

    def _columns(self, members: Tensor) -> Tensor:
        """Columns of the whole output projection that belong to members, ``(d, members × width)``."""
        weight = rearrange(self._whole.out.weight, "d (m w) -> m d w", m=len(self._means))
        return rearrange(weight[members], "m d w -> d (m w)")

    def _constant_of(self, members: Tensor) -> Tensor:
        """What members give on average, ``(t, d)``."""
        means = rearrange(self._means[members], "m t w -> t (m w)")
        return means @ self._columns(members).T

    def _after_nothing(self, stream: Tensor, tokens: int | None) -> Tensor:
        return stream[:, :tokens] + self._constant[: tokens or len(self._constant)]

    def _activations(self, stream: Tensor, tokens: int | None) -> Tensor:
        """What is left computes this, ``(b, t, members, width)``."""
        if isinstance(self._narrowed, Attention):
            return rearrange(self._narrowed.heads(stream, tokens), "b h t k -> b t h k")
        return self._narrowed.neurons(stream[:, :tokens])[..., None]

    def _written(self, members: Tensor, activations: Tensor) -> Tensor:
        chosen = activations
        if len(members) < len(self.kept):
            chosen = activations[:, :, torch.isin(self.kept, members)]
        return F.linear(rearrange(chosen, "b t m w -> b t (m w)"), self._columns(members))


class PartialModel:
    """A ViT from which units are taken out; on its images it knows how far its answers are from the whole model's.

    Removed units give their mean by ``ablation``, as in the circuit without them.
    """

    @torch.no_grad()
    def __init__(self, model: ViT, images: Tensor, ablation: Ablation) -> None:
        ablation.check(model)
        self._model = model
        self._sublayers: list[_Sublayer | None] = []
        for layer, block in enumerate(model.blocks):
            heads, neurons = ablation.heads[layer], rearrange(ablation.neurons[layer], "t n -> n t 1")
            self._sublayers.append(
                _Sublayer(model.config, block.attention, heads) if block.attention is not None else None
            )
            self._sublayers.append(_Sublayer(model.config, block.mlp, neurons) if block.mlp is not None else None)
        self._streams = [model.embed(images)]
        self._reference: Reference | None = None
        logits = self._run_from(0)
        self._reference = Reference.of(logits)
        self.kl = 0.0

    @property
    def survivors(self) -> Survivors:
        """The heads and neurons that are left."""
        kept = [part.kept if part is not None else torch.empty(0, dtype=torch.long) for part in self._sublayers]
        return Survivors(heads=tuple(kept[0::2]), neurons=tuple(kept[1::2]))

    @property
    def config(self) -> ViTConfig:
        """The shape of the compact model."""
        return self.config_without(None)

    def config_without(self, unit: Unit | None) -> ViTConfig:
        """The shape of the compact model if ``unit``, too, were gone."""
        counts = [0 if part is None else len(part.kept) for part in self._sublayers]
        if unit is not None:
            counts[unit.sublayer] -= len(unit.members)
        return replace(
            self._model.config,
            heads_per_layer=tuple(counts[0::2]),
            neurons_per_layer=tuple(counts[1::2]),
            token_biases=True,
        )

    def units(self, group_size: int) -> list[Unit]:
        """What can be taken out: each head, each group of neighbouring neurons, and each sublayer as a whole."""
        found = []
        for place, part in enumerate(self._sublayers):
            if part is None or not len(part.kept):
                continue
            layer = place // 2
            kept = part.kept.tolist()
            if part.is_attention:
                found += [Unit(place, f"a{layer}.h{head}", (head,)) for head in kept]
            else:
                groups = [kept[start : start + group_size] for start in range(0, len(kept), group_size)]
                found += [Unit(place, f"m{layer}.g{number}", tuple(group)) for number, group in enumerate(groups)]
            found.append(self.whole(place))
        return found

    def whole(self, place: int) -> Unit:
        """All that is left of a sublayer."""
        part = self._sublayers[place]
        members = () if part is None else tuple(part.kept.tolist())
        return Unit(place, f"{'am'[place % 2]}{place // 2}", members)

    @torch.no_grad()
    def kl_without(self, unit: Unit) -> float:
        """KL(whole ‖ this without ``unit``) in nats, mean over the images."""
        part = self._sublayers[unit.sublayer]
        assert part is not None
        tokens = self._tokens(unit.sublayer)
        stream = part.without(torch.tensor(unit.members), self._streams[unit.sublayer], tokens)
        return self._distance(self._finish(unit.sublayer + 1, stream))

    @torch.no_grad()
    def remove(self, unit: Unit) -> None:
        """Take a unit out for good."""
        part = self._sublayers[unit.sublayer]
        assert part is not None
        part.keep(part.kept[~torch.isin(part.kept, torch.tensor(unit.members))])
        if not len(part.kept) and part.is_attention:
            # The class token may be all that is computed from an earlier layer on.
            self.kl = self._distance(self._run_from(0))
        else:
            self.kl = self._distance(self._run_from(unit.sublayer))

    def _tokens(self, place: int) -> int | None:
        return 1 if place // 2 >= self.config.first_short_layer else None

    def _run_from(self, first: int) -> Tensor:
        """Logits; remembers the stream before every sublayer from ``first`` on."""
        del self._streams[first + 1 :]
        for place, part in enumerate(self._sublayers[first:], first):
            stream = self._streams[-1]
            self._streams.append(stream if part is None else part.forward(stream, self._tokens(place)))
        return self._model.classify(self._streams[-1])

    def _finish(self, first: int, stream: Tensor) -> Tensor:
        for place, part in enumerate(self._sublayers[first:], first):
            if part is not None:
                stream = part.forward(stream, self._tokens(place))
        return self._model.classify(stream)

    def _distance(self, logits: Tensor) -> float:
        assert self._reference is not None
        return damage(kl, logits, self._reference).mean().item()
