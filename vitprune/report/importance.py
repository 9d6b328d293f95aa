"""A ranking of edges on the scale of the benchmark MIB, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from vitprune.circuit.faithfulness import SHARES, CommonScale, Faithfulness
from vitprune.evaluation.table import Table


def importance_table(scale: CommonScale, curve: Sequence[Faithfulness], edges: int) -> Table:
    """A row for each of MIB's shares of all ``edges``; CPR and CMD in the caption."""
    rows = [
        (
            f"{100 * share:g} %",
            f"{point.edges:,}",
            f"{point.f:.3f}",
            f"{point.recovered:.3f}",
            f"{point.kl:.4f}",
            f"{100 * point.accuracy:.2f} %",
        )
        for share, point in zip(SHARES, curve, strict=True)
    ]
    return Table(
        headers=("share", f"edges, of {edges:,}", "f", "KL recovered", "KL, nats", "accuracy"),
        rows=tuple(rows),
        caption=f"CPR {scale.cpr:.3f} (higher is better), CMD {scale.cmd:.3f} (lower is better); "
        "f is the recovered share of the logit difference.",
    )
