"""How long each sublayer of a ViT takes at each width, measured once on its device.

Legend of dimensions: b images, t tokens, d width of the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from vitprune.core.compute.device import describe_machine
from vitprune.core.compute.stopwatch import TimingProtocol, time_in_turn
from vitprune.core.model.vit import Block, ViT, ViTConfig

MAX_WIDTHS = 16
"""At most so many widths of a sublayer are measured; between them the time is interpolated."""


@dataclass(frozen=True, kw_only=True)
class CostCurve:
    """Milliseconds of one sublayer at increasing ``widths`` (heads or neurons); one of width zero costs nothing.

    ``ms`` never falls with the width: where a measurement does, neighbours are averaged.
    """

    widths: tuple[int, ...]
    ms: tuple[float, ...]

    def at(self, width: int) -> float:
        """Milliseconds at a width, which may lie between those that were measured."""
        return float(np.interp(width, self.widths, self.ms)) if width else 0.0

    def saving(self, width: int, narrowing: int) -> float:
        """Milliseconds that taking ``narrowing`` off a sublayer's width saves in the long run.

        On devices where the time falls in stairs, that much alone may save nothing. So this is its share of the
        steepest way down to a narrower width, of at least half of this one.
        """
        here = self.at(width)
        if width <= narrowing:
            return here
        targets = [target for target in self.widths if width / 2 <= target <= width - narrowing] or [width - narrowing]
        return narrowing * max((here - self.at(target)) / (width - target) for target in targets)


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Milliseconds of the sublayers of a ViT, for those that compute all tokens and for those of the class token alone.

    ``rest_ms`` is the time of embedding and classifier, which no pruning saves. ``measured_on`` has the shape, the
    batch size and the machine.
    """

    measured_on: dict[str, Any]
    rest_ms: float
    attention: CostCurve
    mlp: CostCurve
    short_attention: CostCurve
    short_mlp: CostCurve

    def curve(self, kind: str, *, is_short: bool) -> CostCurve:
        """The curve of ``attention`` or ``mlp``."""
        if kind == "attention":
            return self.short_attention if is_short else self.attention
        return self.short_mlp if is_short else self.mlp

    def milliseconds(self, config: ViTConfig) -> float:
        """The predicted time of a whole model with the heads and neurons of ``config``."""
        total = self.rest_ms
        for layer, (heads, neurons) in enumerate(zip(config.layer_heads, config.layer_neurons, strict=True)):
            is_short = layer >= config.first_short_layer
            total += self.curve("attention", is_short=is_short).at(heads)
            total += self.curve("mlp", is_short=is_short).at(neurons)
        return total


class _Measurement:
    """Sublayers of every width with random weights, timed in turn."""

    def __init__(self, config: ViTConfig, group_size: int, protocol: TimingProtocol) -> None:
        # Compact models have token biases.
        self._config = replace(config, token_biases=True)
        self._protocol = protocol
        self._heads = _spread(range(1, max(config.layer_heads) + 1))
        most = max(config.layer_neurons)
        self._neurons = _spread([*range(group_size, most, group_size), most])

    def table(self, key: dict[str, Any]) -> LatencyTable:
        layers = self._config.num_layers
        bare = ViT(replace(self._config, heads_per_layer=(0,) * layers, neurons_per_layer=(0,) * layers))
        shape = (self._config.in_channels, self._config.image_size, self._config.image_size)
        images = torch.zeros(self._protocol.batch_size, *shape, device=self._protocol.device)
        work: list[Callable[[], object]] = [partial(bare.eval().to(self._protocol.device), images)]
        sizes = []
        for tokens in (None, 1):
            for kind, widths in (("attention", self._heads), ("mlp", self._neurons)):
                sizes.append(len(widths))
                work += [partial(self._block(kind, width), self._stream, tokens=tokens) for width in widths]
        with torch.inference_mode():
            protocol = self._protocol
            seconds = time_in_turn(work, protocol.device, warmup=protocol.warmup, rounds=protocol.rounds)
        rest, *sublayers = 1000 * np.median(seconds, axis=0)
        attention, mlp, short_attention, short_mlp = np.split(np.array(sublayers), np.cumsum(sizes)[:-1])
        return LatencyTable(
            measured_on=key,
            rest_ms=float(rest),
            attention=_curve(self._heads, attention),
            mlp=_curve(self._neurons, mlp),
            short_attention=_curve(self._heads, short_attention),
            short_mlp=_curve(self._neurons, short_mlp),
        )

    @cached_property
    def _stream(self) -> torch.Tensor:
        config, protocol = self._config, self._protocol
        generator = torch.Generator().manual_seed(0)
        stream = torch.randn(protocol.batch_size, config.num_tokens, config.d_model, generator=generator)
        return stream.to(protocol.device)

    def _block(self, kind: str, width: int) -> Block:
        heads, neurons = (width, 0) if kind == "attention" else (0, width)
        config = replace(self._config, num_layers=1, heads_per_layer=(heads,), neurons_per_layer=(neurons,))
        return ViT(config).eval().to(self._protocol.device).blocks[0]


def _spread(widths: range | list[int]) -> tuple[int, ...]:
    """All widths if they are few, else some of them from the least to the largest."""
    indices = np.unique(np.linspace(0, len(widths) - 1, MAX_WIDTHS).round().astype(int))
    return tuple(widths[index] for index in indices) if len(widths) else ()


def _curve(widths: tuple[int, ...], ms: np.ndarray) -> CostCurve:
    # Late: fine-tuning and pruning to a circuit need no table, and importing it takes as long as importing torch.
    from sklearn.isotonic import IsotonicRegression

    smooth = IsotonicRegression().fit_transform(widths, ms) if widths else ms
    return CostCurve(widths=widths, ms=tuple(round(float(value), 5) for value in smooth))


def measure_table(config: ViTConfig, group_size: int, protocol: TimingProtocol) -> LatencyTable:
    """The table for models of this shape, measured here; MeasurementError if warm-up or rounds are too few."""
    return _Measurement(config, group_size, protocol).table(table_key(config, group_size, protocol))


def table_key(config: ViTConfig, group_size: int, protocol: TimingProtocol) -> dict[str, Any]:
    """Everything that a latency table depends on, in plain values."""
    return {
        "machine": describe_machine(protocol.device),
        "batch_size": protocol.batch_size,
        "group_size": group_size,
        "rounds": protocol.rounds,
        "image": [config.in_channels, config.image_size, config.patch_size, config.patch_embedding],
        "pooling": config.pooling,
        "num_classes": config.num_classes,
        "d_model": config.d_model,
        "d_head": config.d_head,
        "most_heads": max(config.layer_heads),
        "most_neurons": max(config.layer_neurons),
    }
