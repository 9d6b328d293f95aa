"""What was measured while a model was pruned, kept so that the same pruning can be done again with the same figures.

A search for a speed depends on measured times twice: on the latency table, and on the speed of the whole models that
it proposes. With the measurements of an earlier run on the same machine, it takes the same decisions again.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitprune.core.compute.stopwatch import TimingProtocol, time_in_turn
from vitprune.core.model.vit import ViT, ViTConfig
from vitprune.errors import VitpruneError
from vitprune.pruning.latency import CostCurve, LatencyTable, measure_table, table_key
from vitprune.storage import read_json, write_json

FORMAT = 2
CURVES = ("attention", "mlp", "short_attention", "short_mlp")


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """A latency table, and the speed-ups that were measured for each pair of a baseline and a smaller model, in order.

    ``key`` says what they depend on: machine, shape, batch size, repetitions.
    """

    key: dict[str, Any] = field(default_factory=dict)
    table: LatencyTable | None = None
    speedups: dict[str, list[float]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write a JSON file, atomically."""
        write_json(path, {"format": FORMAT} | asdict(self))

    @classmethod
    def read(cls, path: Path) -> Measurements:
        """What ``write`` wrote; empty if there is no such file or it cannot be used: all can be measured again."""
        try:
            content = read_json(path)
            if content["format"] != FORMAT:
                return cls()
            table = content["table"]
            curves = table and {
                name: CostCurve(widths=tuple(table[name]["widths"]), ms=tuple(table[name]["ms"])) for name in CURVES
            }
            return cls(
                key=dict(content["key"]),
                table=table
                and LatencyTable(measured_on=dict(table["measured_on"]), rest_ms=float(table["rest_ms"]), **curves),
                speedups={
                    str(shape): [float(value) for value in values] for shape, values in content["speedups"].items()
                },
            )
        except (VitpruneError, KeyError, TypeError, AttributeError, ValueError):
            return cls()


class SpeedMeter:
    """Measures tables and speed-ups for models that start as ``baseline``, or takes them from ``known``.

    The n-th time that the speed of a shape is asked for, the n-th known measurement answers. ``measurements`` are all
    that are known in the end.
    """

    def __init__(
        self, baseline: ViT, group_size: int, protocol: TimingProtocol, known: Measurements | None = None
    ) -> None:
        self._baseline, self._group_size, self.protocol = baseline, group_size, protocol
        key = table_key(baseline.config, group_size, protocol) | {"warmup": protocol.warmup}
        self._known = known if known and known.key == key else Measurements(key=key)
        self._used: dict[str, list[float]] = {}
        self._table: LatencyTable | None = None

    @property
    def measurements(self) -> Measurements:
        """All that is known: what was measured now, and what was known before."""
        shapes = self._known.speedups | self._used
        speedups = {
            shape: max(self._used.get(shape, []), self._known.speedups.get(shape, []), key=len) for shape in shapes
        }
        return Measurements(key=self._known.key, table=self._table or self._known.table, speedups=speedups)

    def table(self) -> LatencyTable:
        """The latency table. Raises MeasurementError if warm-up or rounds are too few."""
        if self._table is None:
            self._table = self._known.table or measure_table(self._baseline.config, self._group_size, self.protocol)
        return self._table

    def baseline_ms(self) -> float:
        """Predicted milliseconds of the baseline."""
        return self.table().milliseconds(self._baseline.config)

    def predicted_speedup(self, small: ViT) -> float:
        """How many times as fast as the baseline ``small`` is predicted to be."""
        return self.baseline_ms() / self.table().milliseconds(small.config)

    def speedup(self, small: ViT) -> float:
        """How many times as fast as the baseline ``small`` is."""
        shape = _shapes(self._baseline.config, small.config)
        used, known = self._used.setdefault(shape, []), self._known.speedups.get(shape, [])
        is_known = len(used) < len(known)
        used.append(known[len(used)] if is_known else measured_speedup(self._baseline, small, self.protocol))
        return used[-1]


def measured_speedup(baseline: ViT, small: ViT, protocol: TimingProtocol) -> float:
    """How many times as fast as ``baseline`` another model is: median of the ratios of each round."""
    config = baseline.config
    shape = (protocol.batch_size, config.in_channels, config.image_size, config.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(protocol.device)
    work = [partial(copy.deepcopy(model).eval().to(protocol.device), images) for model in (baseline, small)]
    with torch.inference_mode():
        seconds = time_in_turn(work, protocol.device, warmup=protocol.warmup, rounds=protocol.rounds)
    return float(np.median(seconds[:, 0] / seconds[:, 1]))


def _shapes(*configs: ViTConfig) -> str:
    return json.dumps([[config.layer_heads, config.layer_neurons] for config in configs])
