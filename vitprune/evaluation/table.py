"""The table of models: what pruning and fine-tuning did to loss, accuracy, size and time, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitprune.evaluation.models import BASELINE, CIRCUIT, MODELS


@dataclass(frozen=True, kw_only=True)
class Table:
    """Headers and rows of text, and a caption that says how the figures were taken."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


def model_table(scores: dict[str, Any], timing: dict[str, Any]) -> Table:
    """The table of ``metrics/evaluate.json`` and ``metrics/timing.json``: a row for each model and for the circuit."""
    batch_sizes = sorted(int(key.removeprefix("batch_")) for key in timing[BASELINE.name])
    with_top5 = "top5" in scores[BASELINE.name]
    headers = ["model", "test loss", "accuracy", *(["top-5"] if with_top5 else [])]
    headers += ["parameters", "multiply-adds", "size"]
    headers += [f"time, batch {size}" for size in batch_sizes] + [f"speed-up, batch {size}" for size in batch_sizes]
    rows = []
    for model in MODELS:
        mine, times = scores[model.name], [timing[model.name][f"batch_{size}"] for size in batch_sizes]
        row = [model.label, *_score_cells(mine, with_top5)]
        row += [f"{mine['parameters']:,}", f"{mine['multiply_adds'] / 1e6:.2f} M", f"{mine['bytes'] / 1e6:.2f} MB"]
        row += [f"{latency['median_ms']:.2f} ms" for latency in times]
        row += [f"{latency['speedup']:.2f}×" for latency in times]
        rows.append(tuple(row))
    circuit = [_circuit_label(scores)]
    circuit += _score_cells(scores[CIRCUIT], with_top5)
    rows.insert(1, tuple(circuit + ["–"] * (len(headers) - len(circuit))))
    loading = [f"{timing['loader'][f'batch_{size}']['median_ms']:.2f} ms" for size in batch_sizes]
    speedups = ["–"] * len(batch_sizes)
    rows.append(("fetching the batch", *["–"] * (len(headers) - 1 - 2 * len(batch_sizes)), *loading, *speedups))
    return Table(headers=tuple(headers), rows=tuple(rows), caption=_caption(scores, timing))


def short_table(scores: dict[str, Any], timing: dict[str, Any]) -> Table:
    """The columns of the table of models that are looked at first, for the smallest and the largest batch."""
    sizes = sorted(int(key.removeprefix("batch_")) for key in timing[BASELINE.name])
    ends = list(dict.fromkeys((sizes[0], sizes[-1])))
    headers = ("model", "test loss", "accuracy", "size", *(f"batch {size}" for size in ends))
    rows = [
        (
            model.label,
            *_score_cells(scores[model.name], with_top5=False),
            f"{scores[model.name]['bytes'] / 1e6:.2f} MB",
            *(
                f"{latency['median_ms']:.2f} ms ({latency['speedup']:.2f}×)"
                for size in ends
                for latency in [timing[model.name][f"batch_{size}"]]
            ),
        )
        for model in MODELS
    ]
    circuit = [_circuit_label(scores), *_score_cells(scores[CIRCUIT], with_top5=False), *["–"] * (1 + len(ends))]
    rows.insert(1, tuple(circuit))
    return Table(headers=headers, rows=tuple(rows), caption=_caption(scores, timing, with_loader=False))


def _circuit_label(scores: dict[str, Any]) -> str:
    return f"circuit of {scores[CIRCUIT]['edges_kept']:,} of {scores[CIRCUIT]['edges']:,} edges, masked"


def _caption(scores: dict[str, Any], timing: dict[str, Any], *, with_loader: bool = True) -> str:
    machine, images = timing["machine"], scores["test_images"]
    loader = "Fetching and normalising a batch has a row of its own. " if with_loader else ""
    return (
        f"{scores['dataset']}: {images:,} test images (one is {100 / images:.2f} points; the largest class has "
        f"{100 * scores['largest_class_share']:.1f} % of them), seed {scores['seed']}. "
        f"Time: median of {timing['rounds']} interleaved forward passes in {timing['dtype']} on {machine['device']}, "
        f"{machine['threads']} threads, PyTorch {machine['torch']}, eager, input preloaded. "
        f"Speed-up: median over the rounds of the ratio to the baseline. {loader}Upgraded: fine-tuned, both for "
        "as many epochs; the upgraded baseline is the control of the pruned one."
    )


def _score_cells(scores: dict[str, Any], with_top5: bool) -> list[str]:
    top5 = [f"{100 * scores['top5']:.2f} %"] if with_top5 else []
    return [f"{scores['loss']:.4f}", f"{100 * scores['accuracy']:.2f} %", *top5]
