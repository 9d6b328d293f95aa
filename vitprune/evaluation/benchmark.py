"""Any models, timed side by side: folders run eagerly, compiled or in ONNX Runtime, and ONNX files.

Legend of dimensions: b images, c channels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from vitprune.core.compute.device import describe_machine
from vitprune.core.compute.stopwatch import Latency
from vitprune.core.model.checkpoint import SavedModel, load_model
from vitprune.errors import MeasurementError
from vitprune.evaluation.table import Table
from vitprune.evaluation.timing import time_models
from vitprune.export import OnnxModel, Packaged, export_onnx, simplified

Times = dict[str, dict[int, Latency]]
"""For each entry its latency at every batch size."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Entry:
    """A model on ``device`` that takes images ``(b, c, height, width)``; ``shape`` is ``(c, height, width)``."""

    name: str
    model: nn.Module
    shape: tuple[int, ...]
    device: torch.device


def load_entries(
    paths: Sequence[Path],
    device: torch.device,
    *,
    simplify: bool,
    compiled: bool,
    onnx: bool,
    threads: int | None,
) -> list[Entry]:
    """Load every model in every way that is asked for, normalisation included. ONNX runs on the CPU.

    A name that comes again gets a number. Raises CheckpointError or ExportError for a file that is not a model, and
    MeasurementError if the models take images of different shapes.
    """
    threads = threads or torch.get_num_threads()
    entries: list[Entry] = []
    for path in paths:
        if path.suffix == ".onnx":
            session = OnnxModel(path, threads)
            loaded = [Entry(f"{path}", session, session.input_shape, CPU)]
        else:
            ways = _ways(path, device, simplify=simplify, compiled=compiled, onnx=onnx, threads=threads)
            loaded = list(ways)
        taken = {entry.name for entry in entries}
        count = next(number for number in range(1, len(paths) + 1) if _numbered(loaded[0].name, number) not in taken)
        entries += [replace(entry, name=_numbered(entry.name, count)) for entry in loaded]
    first = entries[0]
    for entry in entries[1:]:
        if entry.shape != first.shape:
            raise MeasurementError(
                f"{entry.name} takes images of shape {entry.shape} (channels, height, width), but {first.name} of "
                f"{first.shape}; compare models of the same images"
            )
    return entries


def _numbered(name: str, count: int) -> str:
    return name if count == 1 else f"{name} ({count})"


def _ways(
    path: Path, device: torch.device, *, simplify: bool, compiled: bool, onnx: bool, threads: int
) -> Iterator[Entry]:
    saved = load_model(path)
    config = saved.model.config
    shape = (config.in_channels, config.image_size, config.image_size)
    # Exported first, because the export wants the model on the CPU.
    session = _in_onnx_runtime(saved, threads) if onnx else None
    yield Entry(f"{path}", Packaged(saved).to(device), shape, device)
    if simplify:
        yield Entry(f"{path}, simplified", Packaged(simplified(saved)).to(device), shape, device)
    if compiled:
        model = Packaged(load_model(path, device)).to(device)
        # Each batch size is compiled by itself, because that is how a compiled model is used.
        model.compile(dynamic=False)
        yield Entry(f"{path}, compiled", model, shape, device)
    if session is not None:
        yield Entry(f"{path}, ONNX", session, shape, CPU)


def _in_onnx_runtime(saved: SavedModel, threads: int) -> OnnxModel:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_onnx(saved, file)
        return OnnxModel(file, threads)


def run_benchmark(entries: Sequence[Entry], batch_sizes: Sequence[int], *, warmup: int, rounds: int) -> Times:
    """Time all entries in turn, each on its own device. Raises MeasurementError as ``time_models``."""
    times: Times = {entry.name: {} for entry in entries}
    models = {entry.name: entry.model for entry in entries}
    for size in batch_sizes:
        images = torch.rand(size, *entries[0].shape, generator=torch.Generator().manual_seed(0))
        inputs = {entry.name: images.to(entry.device) for entry in entries}
        for name, latency in time_models(models, inputs, warmup=warmup, rounds=rounds).items():
            times[name][size] = latency
    return times


def benchmark_machine(entries: Sequence[Entry]) -> dict[str, str | int]:
    """What the entries ran on; ``device`` names every device that one of them used."""
    machines = [describe_machine(device) for device in dict.fromkeys(entry.device for entry in entries)]
    return machines[0] | {"device": " and ".join(dict.fromkeys(str(machine["device"]) for machine in machines))}


def benchmark_table(times: Times, machine: dict[str, str | int], rounds: int) -> Table:
    """A row for each entry and batch size."""
    rows = []
    for name, latencies in times.items():
        for size, latency in latencies.items():
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
        f"Medians of {rounds} rounds in which all models took turns. Speed-up: median over the rounds of the ratio to "
        f"the first model, with its 10th and 90th percentile. {machine['device']}, {machine['threads']} threads, "
        f"PyTorch {machine['torch']}, float32."
    )
    headers = ("model", "batch", "ms", "p90 ms", "images/s", "speed-up", "p10–p90")
    return Table(headers=headers, rows=tuple(rows), caption=caption)
