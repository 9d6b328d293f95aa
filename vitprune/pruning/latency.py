"""What each part of a ViT costs in milliseconds at each width, measured once on the device that it is to run on.

Legend of dimensions: b images, t tokens, d width of the stream.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression

from vitprune.device import describe_machine
from vitprune.errors import VitpruneError
from vitprune.model.vit import Block, ViT, ViTConfig
from vitprune.stopwatch import time_in_turn
from vitprune.storage import read_json, write_json

MOST_WIDTHS = 16
"""So many widths of a part are measured at most; between them the cost is interpolated."""
FORMAT = 1

logger = logging.getLogger(__name__)


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

    def saving(self, width: int, step: int) -> float:
        """Milliseconds that narrowing by ``step`` saves in the long run, the sublayer staying.

        On devices where cost falls in stairs a step alone may save nothing: this is its share of the way down to that
        width, not below half, to which it is steepest.
        """
        here = self.at(width)
        if width <= step:
            return here
        narrower = [each for each in self.widths if width / 2 <= each <= width - step] or [width - step]
        return step * max((here - self.at(each)) / (width - each) for each in narrower)


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Costs of the parts of a ViT: of a sublayer that computes all tokens, and of one for the class token alone.

    ``rest_ms`` is what no pruning saves: embedding and classifier. ``measured_on`` says for which shape, batch size
    and machine.
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
        """What a whole model with the heads and neurons of ``config`` should take."""
        total = self.rest_ms
        for layer, (heads, neurons) in enumerate(zip(config.layer_heads, config.layer_neurons, strict=True)):
            is_short = layer >= config.first_short_layer
            total += self.curve("attention", is_short=is_short).at(heads)
            total += self.curve("mlp", is_short=is_short).at(neurons)
        return total


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How latency is measured: on which device, for batches of which size, how often."""

    device: torch.device
    batch_size: int
    warmup: int
    rounds: int


def latency_table(config: ViTConfig, group_size: int, bench: Bench, path: Path | None = None) -> LatencyTable:
    """The table for models of this shape, from ``path`` if that was measured for the same shape, batch and machine.

    A new one is written there. Raises MeasurementError if warm-up or rounds are too few.
    """
    key = _key(config, group_size, bench)
    if path is not None and (known := _read(path, key)) is not None:
        return known
    table = _Measurement(config, group_size, bench).table(key)
    if path is not None:
        write_json(path, {"format": FORMAT} | asdict(table))
    return table


class _Measurement:
    """Sublayers of every width with random weights, timed in turn."""

    def __init__(self, config: ViTConfig, group_size: int, bench: Bench) -> None:
        # As compact models have them.
        self._config = replace(config, token_biases=True)
        self._bench = bench
        self._heads = _spread(range(1, max(config.layer_heads) + 1))
        most = max(config.layer_neurons)
        self._neurons = _spread([*range(group_size, most, group_size), most])

    def table(self, key: dict[str, Any]) -> LatencyTable:
        layers = self._config.num_layers
        bare = ViT(replace(self._config, heads_per_layer=(0,) * layers, neurons_per_layer=(0,) * layers))
        shape = (self._config.in_channels, self._config.image_size, self._config.image_size)
        images = torch.zeros(self._bench.batch_size, *shape, device=self._bench.device)
        work: list[Callable[[], object]] = [partial(bare.eval().to(self._bench.device), images)]
        sizes = []
        for tokens in (None, 1):
            for kind, widths in (("attention", self._heads), ("mlp", self._neurons)):
                sizes.append(len(widths))
                work += [partial(self._block(kind, width), self._stream, tokens=tokens) for width in widths]
        with torch.inference_mode():
            seconds = time_in_turn(work, self._bench.device, warmup=self._bench.warmup, rounds=self._bench.rounds)
        rest, *parts = 1000 * np.median(seconds, axis=0)
        attention, mlp, short_attention, short_mlp = np.split(np.array(parts), np.cumsum(sizes)[:-1])
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
        config, bench = self._config, self._bench
        generator = torch.Generator().manual_seed(0)
        stream = torch.randn(bench.batch_size, config.num_tokens, config.d_model, generator=generator)
        return stream.to(bench.device)

    def _block(self, kind: str, width: int) -> Block:
        heads, neurons = (width, 0) if kind == "attention" else (0, width)
        config = replace(self._config, num_layers=1, heads_per_layer=(heads,), neurons_per_layer=(neurons,))
        return ViT(config).eval().to(self._bench.device).blocks[0]


def _spread(widths: range | list[int]) -> tuple[int, ...]:
    """All widths if they are few, else some of them from the least to the largest."""
    places = np.unique(np.linspace(0, len(widths) - 1, MOST_WIDTHS).round().astype(int))
    return tuple(widths[place] for place in places) if len(widths) else ()


def _curve(widths: tuple[int, ...], ms: np.ndarray) -> CostCurve:
    smooth = IsotonicRegression().fit_transform(widths, ms) if widths else ms
    return CostCurve(widths=widths, ms=tuple(round(float(value), 5) for value in smooth))


def _key(config: ViTConfig, group_size: int, bench: Bench) -> dict[str, Any]:
    return {
        "machine": describe_machine(bench.device),
        "batch_size": bench.batch_size,
        "group_size": group_size,
        "rounds": bench.rounds,
        "image": [config.in_channels, config.image_size, config.patch_size, config.patch_embedding],
        "pooling": config.pooling,
        "d_model": config.d_model,
        "d_head": config.d_head,
        "most_heads": max(config.layer_heads),
        "most_neurons": max(config.layer_neurons),
    }


def _read(path: Path, key: dict[str, Any]) -> LatencyTable | None:
    """The table in a file, or None if there is none for this key: it can be measured again."""
    try:
        content = read_json(path)
        if content.pop("format") != FORMAT or content["measured_on"] != key:
            return None
        curves = {
            name: CostCurve(widths=tuple(content[name]["widths"]), ms=tuple(content[name]["ms"]))
            for name in ("attention", "mlp", "short_attention", "short_mlp")
        }
        return LatencyTable(measured_on=key, rest_ms=float(content["rest_ms"]), **curves)
    except (VitpruneError, KeyError, TypeError, AttributeError, ValueError):
        return None
