"""The few figures of an experiment that are looked at first, for ``metrics/summary.json``."""

from __future__ import annotations

from typing import Any

from vitprune.evaluation.models import CIRCUIT, UPGRADED_BASELINE, UPGRADED_BASELINE_PRUNED


def headline(scores: dict[str, Any], timing: dict[str, Any]) -> dict[str, Any]:
    """From the scores and timings of an evaluation: the pruned model, its control, its speed-up, and the circuit.

    ``kl`` is KL(baseline ‖ pruned) in nats on the test images. ``machine`` says what the speed-ups hold for.
    """
    pruned, control = scores[UPGRADED_BASELINE_PRUNED.name], scores[UPGRADED_BASELINE.name]
    return {
        "pruned": {name: pruned[name] for name in ("loss", "accuracy", "balanced_accuracy", "kl", "parameters")},
        "control": {name: control[name] for name in ("accuracy", "balanced_accuracy")},
        "speedup": {size: latency["speedup"] for size, latency in timing[UPGRADED_BASELINE_PRUNED.name].items()},
        "circuit": {"edges_kept": scores[CIRCUIT]["edges_kept"]},
        "machine": f"{timing['machine']['device']}, {timing['machine']['threads']} threads",
    }
