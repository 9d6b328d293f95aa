"""Any models, timed side by side: folders run eagerly, compiled or in ONNX Runtime, and ONNX files.

Legend of dimensions: b images, c channels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from vitprune.errors import MeasurementError
from vitprune.evaluation.table import Table
from vitprune.evaluation.timing import Latency, time_models
from vitprune.export import OnnxModel, Packaged, export_onnx, simplified
from vitprune.model.checkpoint import load_model

Times = dict[str, dict[int, Latency]]
"""For each entry its latency at every batch size."""


@dataclass(frozen=True)
class Entry:
    """Something that takes images ``(b, c, height, width)`` of ``shape`` ``(c, height, width)`` on ``device``."""

    name: str
    model: nn.Module
    shape: tuple[int, ...]
    device: torch.device


def enter(
    paths: Sequence[Path],
    device: torch.device,
    *,
    is_simplified: bool,
    is_compiled: bool,
    with_onnx: bool,
    threads: int | None,
) -> list[Entry]:
    """Every model in every way that is asked for, normalisation included; ONNX runs on the CPU.

    Raises CheckpointError or ExportError for what is no model, and MeasurementError if their images differ in shape.
    """
    cpu, entries = torch.device("cpu"), []
    for path in paths:
        if path.suffix == ".onnx":
            session = OnnxModel(path, threads or torch.get_num_threads())
            entries.append(Entry(f"{path}", session, session.input_shape, cpu))
            continue
        saved = load_model(path)
        config = saved.model.config
        shape = (config.in_channels, config.image_size, config.image_size)
        if with_onnx:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "model.onnx"
                export_onnx(saved, file)
                session = OnnxModel(file, threads or torch.get_num_threads())
        packaged = Packaged(saved).to(device)
        entries.append(Entry(f"{path}", packaged, shape, device))
        if is_simplified:
            entries.append(Entry(f"{path}, simplified", Packaged(simplified(saved)).to(device), shape, device))
        if is_compiled:
            # Batches of other sizes are compiled again instead of for any size: that is what it is used for.
            compiled = Packaged(load_model(path, device)).to(device)
            compiled.compile(dynamic=False)
            entries.append(Entry(f"{path}, compiled", compiled, shape, device))
        if with_onnx:
            entries.append(Entry(f"{path}, ONNX", session, shape, cpu))
    first = entries[0]
    for entry in entries[1:]:
        if entry.shape != first.shape:
            raise MeasurementError(
                f"{entry.name} takes images of shape {entry.shape} (channels, height, width), but {first.name} of "
                f"{first.shape}; compare models of the same images"
            )
    return entries


def hold(entries: Sequence[Entry], batch_sizes: Sequence[int], *, warmup: int, rounds: int) -> Times:
    """Time all entries in turn. Raises MeasurementError for too few rounds or warm-up passes."""
    times: Times = {entry.name: {} for entry in entries}
    for size in batch_sizes:
        images = torch.rand(size, *entries[0].shape, generator=torch.Generator().manual_seed(0))
        models = {entry.name: _OnDevice(entry.model, images.to(entry.device)) for entry in entries}
        for name, latency in time_models(models, images.to(entries[0].device), warmup=warmup, rounds=rounds).items():
            times[name][size] = latency
    return times


def contest_table(times: Times, machine: dict[str, str | int], rounds: int) -> Table:
    """A row for each entry and batch size."""
    rows = []
    for name, found in times.items():
        for size, latency in found.items():
            rows.append(
                (
                    name,
                    str(size),
                    f"{latency.median_ms:.3f}",
                    f"{latency.p90_ms:.3f}",
                    f"{1000 * size / latency.median_ms:,.0f}",
                    f"{latency.speedup:.2f}×",
                    f"{latency.speedup_p10:.2f}–{latency.speedup_p90:.2f}×",
                )
            )
    caption = (
        f"Medians of {rounds} rounds in which all took turns; speed-up: median of the ratios to the first, round by "
        f"round, and its 10th to 90th percentile. {machine['device']}, {machine['threads']} threads, PyTorch "
        f"{machine['torch']}, float32."
    )
    headers = ("model", "batch", "ms", "p90 ms", "images/s", "speed-up", "p10–p90")
    return Table(headers=headers, rows=tuple(rows), caption=caption)


class _OnDevice(nn.Module):
    """A model that reads its own copy of the images, which lies where it runs."""

    def __init__(self, model: nn.Module, images: torch.Tensor) -> None:
        super().__init__()
        self.model, self._images = model, images

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.model(self._images)
