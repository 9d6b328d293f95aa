"""Automated Circuit Discovery (Conmy et al. 2023, arXiv 2304.14997), over edges, over nodes, or over both.

Receivers are visited in reverse topological order, and the senders of each latest first. An edge whose removal makes
KL(full ‖ circuit) grow by less than τ is left out for good. The growth is signed and is taken against the circuit as it
stands. A receiver from which no path leads to the logits loses its edges without a test.

Over nodes the rule is the same, with all edges out of one head or neuron group as the candidate: dense hardware gets
faster only when a whole node goes. ``node-edge`` searches nodes first and then the edges between those that stay,
always against the full model and with the same τ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.circuit import ALL_RECEIVERS, Circuit, Decision
from vitprune.circuit.graph import Graph
from vitprune.circuit.incremental import IncrementalEvaluator, Place
from vitprune.circuit.masked import check_images
from vitprune.errors import CircuitError
from vitprune.model.vit import ViT

Granularity = Literal["edge", "node", "node-edge"]


def acdc(
    model: ViT,
    images: Tensor,
    *,
    tau: float,
    graph: Graph | None = None,
    ablation: Ablation | None = None,
    granularity: Granularity = "edge",
    on_progress: Callable[[int, int], None] | None = None,
) -> Circuit:
    """Find the circuit of ``model`` on normalised ``images (b, c, height, width)``.

    ``graph`` defaults to ``Graph.of(model)`` and ``ablation`` to the mean over ``images``; ``tau`` is in nats.
    ``on_progress`` is told how many edges are decided and how many there are. The model must be in evaluation mode.

    Raises CircuitError for a τ below zero, no images, images of another shape, a graph of another model, an unknown
    granularity, or logits that are not finite.
    """
    if not (math.isfinite(tau) and tau >= 0):
        raise CircuitError(f"tau must be a finite number of at least 0, got {tau}")
    if granularity not in get_args(Granularity):
        raise CircuitError(f"granularity must be one of {', '.join(get_args(Granularity))}, got {granularity!r}")
    check_images(model, images)
    if model.training:
        raise CircuitError("the model is in training mode: call model.eval() first, or dropout would blur the search")
    graph = graph or Graph.of(model)
    graph.check(model)
    ablation = ablation or Ablation.mean(model, images)
    evaluator = IncrementalEvaluator(model, images, graph, graph.all_edges, ablation.writes(model, graph))
    search = _Search(evaluator, tau, on_progress)
    if granularity != "edge":
        search.over_nodes()
    if granularity != "node":
        search.over_edges()
    evaluator.refresh()
    return Circuit(
        graph=graph,
        keep_mask=evaluator.keep_mask,
        ablation=ablation,
        kl=evaluator.kl,
        method=f"acdc-{granularity}",
        tau=tau,
        trace=tuple(search.trace),
    )


class _Search:
    """The greedy walk; its state is the evaluator's circuit and the decisions so far."""

    def __init__(
        self, evaluator: IncrementalEvaluator, tau: float, on_progress: Callable[[int, int], None] | None
    ) -> None:
        self.evaluator, self.graph, self.tau = evaluator, evaluator.graph, tau
        self.trace: list[Decision] = []
        self._on_progress = on_progress

    def over_nodes(self) -> None:
        """Decide on every head and MLP, the latest first."""
        done, total = 0, len(self.graph.senders) - 1
        for stage in reversed(range(1, self.graph.last_stage)):
            self.evaluator.refresh()
            for column in reversed(self.graph.stage_senders[stage]):
                rows = self.evaluator.keep_mask[:, column].nonzero().flatten().tolist()
                if self._decide([(row, column) for row in rows], bool(self.evaluator.live[column]), ALL_RECEIVERS):
                    self._drop_inputs(column)
                done += 1
                self._report(done, total)

    def over_edges(self) -> None:
        """Decide on every edge that is still there, the latest receiver first."""
        done, total = 0, int(self.evaluator.keep_mask.sum())
        for stage in reversed(range(1, self.graph.last_stage + 1)):
            self.evaluator.refresh()
            for row in reversed(self.graph.stage_receivers[stage]):
                live = self.evaluator.is_live(row)
                for column in reversed(self.evaluator.keep_mask[row].nonzero().flatten().tolist()):
                    self._decide([(row, column)], live, self.graph.receivers[row].name)
                    done += 1
                    self._report(done, total)

    def _decide(self, places: list[Place], live: bool, receiver: str) -> bool:
        """Remove the edges or leave them, and write down which; returns whether they were removed."""
        if not places:
            return True
        before = self.evaluator.kl
        action: Literal["removed", "kept", "unreachable"]
        if not live:
            after, action = before, "unreachable"
            self.evaluator.remove_unreachable(places)
        else:
            after = self.evaluator.kl_without(places)
            action = "removed" if after - before < self.tau else "kept"
            if action == "removed":
                self.evaluator.accept()
        sender = self.graph.senders[places[0][1]].name
        self.trace.append(Decision(sender=sender, receiver=receiver, action=action, kl_before=before, kl_after=after))
        return action != "kept"

    def _drop_inputs(self, column: int) -> None:
        """A removed node's own edges lead nowhere any more."""
        rows = self.graph.input_rows[self.graph.senders[column].name]
        inputs = self.evaluator.keep_mask[rows.start : rows.stop].nonzero().tolist()
        self.evaluator.remove_unreachable([(rows.start + row, sender) for row, sender in inputs])

    def _report(self, done: int, total: int) -> None:
        if self._on_progress:
            self._on_progress(done, total)
