"""The models that an experiment compares: their names in metrics files and their labels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """``name`` is the key in metrics files, ``label`` the name in tables."""

    name: str
    label: str


BASELINE = ComparedModel(name="baseline", label="baseline")
"""The model as trained. Speed-ups are relative to it."""
BASELINE_PRUNED = ComparedModel(name="baseline_pruned", label="baseline, pruned")
"""The compact model before fine-tuning."""
UPGRADED_BASELINE = ComparedModel(name="upgraded_baseline", label="upgraded baseline")
"""The control: the unpruned model, fine-tuned for as many epochs as the pruned one."""
UPGRADED_BASELINE_PRUNED = ComparedModel(name="upgraded_baseline_pruned", label="upgraded baseline, pruned")
"""The compact model after fine-tuning: the result of an experiment."""

MODELS = (BASELINE, BASELINE_PRUNED, UPGRADED_BASELINE, UPGRADED_BASELINE_PRUNED)
"""All of them, in the order of tables; the others are compared with the first."""

CIRCUIT = "circuit"
"""The key of the masked circuit. It has scores, but no size or speed of its own."""
