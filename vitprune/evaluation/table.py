"""The table of models: what pruning and fine-tuning did to loss, accuracy, size and time, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MODELS = {
    "baseline": "baseline",
    "baseline_pruned": "baseline, pruned",
    "upgraded_baseline": "upgraded baseline",
    "upgraded_baseline_pruned": "upgraded baseline, pruned",
}
"""Names in the metrics files, and how a table calls them; the first is what the others are compared with."""

CIRCUIT = "circuit"
"""The exact circuit, run with masks: it has scores, but no size or speed of its own."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Headers and rows of text, and the sentence that says how the figures came about."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


def model_table(scores: dict[str, Any], timing: dict[str, Any]) -> Table:
    """The table of ``metrics/evaluate.json`` and ``metrics/timing.json``."""
    batch_sizes = sorted(int(key.removeprefix("batch_")) for key in timing["baseline"])
    with_top5 = "top5" in scores["baseline"]
    headers = [
        "model",
        "test loss",
        "accuracy",
        *(["top-5"] if with_top5 else []),
        "parameters",
        "multiply-adds",
        "size",
    ]
    headers += [f"time, batch {size}" for size in batch_sizes] + [f"speed-up, batch {size}" for size in batch_sizes]
    rows = []
    for name, title in MODELS.items():
        mine, times = scores[name], [timing[name][f"batch_{size}"] for size in batch_sizes]
        row = [title, *_score_cells(mine, with_top5), f"{mine['parameters']:,}", f"{mine['multiply_adds'] / 1e6:.2f} M"]
        row += [f"{mine['bytes'] / 1e6:.2f} MB"]
        row += [f"{latency['median_ms']:.2f} ms" for latency in times]
        row += [f"{latency['speedup']:.2f}×" for latency in times]
        rows.append(tuple(row))
    circuit = [f"circuit of {scores[CIRCUIT]['edges_kept']:,} of {scores[CIRCUIT]['edges']:,} edges, masked"]
    circuit += _score_cells(scores[CIRCUIT], with_top5)
    rows.insert(1, tuple(circuit + ["–"] * (len(headers) - len(circuit))))
    loading = [f"{timing['loader'][f'batch_{size}']['median_ms']:.2f} ms" for size in batch_sizes]
    speedups = ["–"] * len(batch_sizes)
    rows.append(("fetching the batch", *["–"] * (len(headers) - 1 - 2 * len(batch_sizes)), *loading, *speedups))
    machine = timing["machine"]
    images = scores["test_images"]
    caption = (
        f"{scores['dataset']}: {images:,} test images (one is {100 / images:.2f} points), seed {scores['seed']}. "
        f"Time: median of {timing['rounds']} interleaved forward passes in {timing['dtype']} on {machine['device']}, "
        f"{machine['threads']} threads, PyTorch {machine['torch']}, eager, input preloaded; "
        "speed-up: median of the ratios to the baseline, round by round; fetching and normalising a batch is apart. "
        "Upgraded: fine-tuned for the same epochs as the pruned model."
    )
    return Table(headers=tuple(headers), rows=tuple(rows), caption=caption)


def _score_cells(scores: dict[str, Any], with_top5: bool) -> list[str]:
    top5 = [f"{100 * scores['top5']:.2f} %"] if with_top5 else []
    return [f"{scores['loss']:.4f}", f"{100 * scores['accuracy']:.2f} %", *top5]
