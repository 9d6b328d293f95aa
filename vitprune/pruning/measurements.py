"""What was measured while a model was pruned, kept so that the same pruning can be done again with the same figures.

A search for a speed depends on measured times twice: on the latency table, and on the speed of the whole models that
it proposes. With the measurements of an earlier run on the same machine, it takes the same decisions again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import operator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from vitprune.core.compute.stopwatch import TimingProtocol, time_in_turn
from vitprune.core.model.vit import ViT, ViTConfig
from vitprune.errors import VitpruneError
from vitprune.pruning.latency import LatencyTable, measure_table, table_key
from vitprune.storage import read_json, write_json

logger = logging.getLogger(__name__)

FORMAT = 3
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
        content = asdict(self)
        write_json(path, {"format": FORMAT, "sha256": _digest(content), "measurements": content})

    @classmethod
    def read(cls, path: Path) -> Measurements:
        """What ``write`` wrote, and nothing if there is no such file.

        What cannot be used is not used, which a log line says: all can be measured again.
        """
        if not path.exists():
            return cls()
        try:
            content = read_json(path)
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise ValueError("written by another version of vitprune")
            if content.get("sha256") != _digest(content.get("measurements")):
                raise ValueError("not as it was written")
            found = _parse(content["measurements"])
        except (VitpruneError, ValueError) as error:
            reason = " ".join(str(error).split()).removeprefix(f"{path}: ")
            logger.info("%s: not used, so that times are measured anew (%s)", path, reason)
            return cls()
        return found

    def check(self) -> None:
        """Raise ValueError for times that no clock measures, or a table that is not what ``key`` describes."""
        times = [value for values in self.speedups.values() for value in values]
        if self.table is not None:
            curves = [getattr(self.table, name) for name in CURVES]
            times += [self.table.rest_ms, *(value for curve in curves for value in curve.ms)]
            if any(self.key.get(name) != value for name, value in self.table.measured_on.items()):
                raise ValueError("the table is of another machine or shape than the rest")
            for curve in curves:
                if len(curve.widths) != len(curve.ms) or not all(map(operator.lt, (0, *curve.widths), curve.widths)):
                    raise ValueError("the widths of the table do not rise")
        if not all(value >= 0 for value in times) or not all(map(all, self.speedups.values())):
            raise ValueError("some times are negative, or zero where that cannot be")


_READER = TypeAdapter(list[Measurements], config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))


def _parse(content: Any) -> Measurements:
    """Measurements from JSON. Raises ValueError if it is not that of measurements."""
    if not isinstance(content, dict) or content.keys() != asdict(Measurements()).keys():
        raise ValueError("other parts than those of measurements")
    try:
        (found,) = _READER.validate_json(json.dumps([content]))
    except ValidationError as invalid:
        first = invalid.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}") from None
    found.check()
    return found


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
        if known and known.key and known.key != key:
            others = sorted(name for name in {**known.key, **key} if known.key.get(name) != key.get(name))
            logger.info("times are measured anew: those that were kept are for another %s", ", ".join(others))
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
