"""The result of every method: which edges were kept, and by which decisions."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.graph import Edge, Graph
from vitprune.circuit.masked import run_masked
from vitprune.circuit.metrics import MetricName, kl_divergence
from vitprune.core.model.predict import ImageIndexed
from vitprune.core.model.vit import ViT
from vitprune.errors import CheckpointError, CircuitError
from vitprune.storage import atomic_folder, check_unchanged, read_json, write_json

FORMAT = 3
ALL_RECEIVERS = "*"
"""The receiver in a decision about a node: all edges out of it."""

OneDirection = Literal["noising", "denoising"]
Gate = Literal["AND", "OR", "ADDER"]
"""An edge of an AND is needed by the circuit, one of an OR restores its answer, one of an ADDER is and does both."""
Action = Literal["removed", "kept", "unreachable", "removed-untested", "kept-untested"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One decision of a search: the metric before it, the metric without this edge (or node), and what was done.

    A search by ``noising`` takes edges away: they then carry what the ablation says. One by ``denoising`` begins with
    the ablated embedding and restores edges: they then carry what their sender computes on the image itself. In both,
    an edge that may be without being of consequence is ``removed`` from the circuit. ``unreachable`` edges were removed
    without a test, because no path led from them to the logits. The ``…-untested`` were settled by attribution scores;
    their ``after`` is a prediction.
    """

    sender: str
    receiver: str
    action: Action
    before: float
    after: float
    direction: OneDirection = "noising"

    @property
    def change(self) -> float:
        """By how much the metric grows when the edge is taken away, or falls when it is restored."""
        change = self.after - self.before
        return change if self.direction == "noising" else -change


@dataclass(frozen=True, kw_only=True, eq=False)
class Circuit:
    """A graph, and which of its edges were kept.

    ``keep_mask (receivers, senders)`` is True for kept edges. ``kl`` is KL(full ‖ circuit) in nats on the images of the
    search. ``scores (receivers, senders)`` measure the importance of edges in the method's own way, NaN where unknown.
    ``frequency (receivers, senders)`` is the share of bootstrap samples on which an edge was kept, None if there were
    none. ``gates`` says what kept edges are, as far as they have an effect alone (arXiv 2505.10039), None if only one
    direction was searched. ``trace`` lists the decisions in the order they were taken. ``tau`` is None if there was no
    threshold.
    """

    graph: Graph
    keep_mask: Tensor
    ablation: Ablation
    kl: float
    method: str
    metric: MetricName = "kl"
    tau: float | None = None
    scores: Tensor | None = None
    frequency: Tensor | None = None
    gates: Mapping[Edge, Gate] | None = None
    trace: tuple[Decision, ...] = ()

    @cached_property
    def kept(self) -> tuple[Edge, ...]:
        """Edges that were kept, in the graph's order."""
        return self.graph.named(self.keep_mask)

    @cached_property
    def removed(self) -> tuple[Edge, ...]:
        """Edges that were removed, in the graph's order."""
        return self.graph.named(self.graph.all_edges & ~self.keep_mask)

    @cached_property
    def live_nodes(self) -> tuple[str, ...]:
        """Heads and MLPs (or neuron groups) on a path from ``embed`` to ``logits``."""
        live = self.graph.reach_logits(self.keep_mask) & self.graph.reached_from_embed(self.keep_mask)
        return tuple(node.name for node, is_live in zip(self.graph.senders, live.tolist(), strict=True) if is_live)[1:]

    def closed(self) -> Circuit:
        """The same circuit without the edges that are on no path from ``embed`` to ``logits``.

        This also ablates nodes that nothing reaches. ``kl`` remains that of the search.
        """
        return replace(self, keep_mask=self.graph.close(self.keep_mask))

    def logits(self, model: ViT, images: Tensor, batch_size: int = 256, first: int = 0) -> Tensor:
        """Exact masked forward pass: logits ``(b, classes)`` for normalised images ``(b, c, height, width)``.

        ``first`` is the index of the first image among all that the circuit is run on: resample and noise ablation
        differ from image to image. Raises CircuitError for a model with another graph or images that the model cannot
        take.
        """
        batches = images.split(batch_size) if len(images) else (images,)
        starts = range(first, first + max(len(images), 1), batch_size)
        return torch.cat(
            [
                run_masked(model, batch, self.graph, self.keep_mask, self.ablation, start)
                for start, batch in zip(starts, batches, strict=True)
            ]
        )

    def measured(self, model: ViT, images: Tensor, full_logits: Tensor | None = None) -> Circuit:
        """The same circuit with ``kl`` computed from scratch on these images."""
        if full_logits is None:
            with torch.no_grad():
                full_logits = torch.cat([model(batch) for batch in images.split(256)])
        return replace(self, kl=kl_divergence(full_logits, self.logits(model, images, batch_size=32)))

    def as_module(self, model: ViT) -> ImageIndexed:
        """The circuit as a module from normalised images to logits, which ``predict`` takes like a model."""
        return _Masked(self, model)

    def save(self, folder: Path) -> None:
        """Write ``circuit.json``, ``trace.csv`` and ``ablation.safetensors`` into a new folder, atomically."""
        with atomic_folder(Path(folder)) as partial:
            self.write_files(partial)

    def write_files(self, folder: Path) -> None:
        """Write the same files into an existing folder."""
        content = {
            "format": FORMAT,
            "method": self.method,
            "metric": self.metric,
            "tau": self.tau,
            "kl": self.kl,
            "ablation": {"kind": self.ablation.kind, "std": self.ablation.std, "seed": self.ablation.seed},
            "graph": asdict(self.graph),
            "kept": self._rows(self.kept),
            "removed": self._rows(self.removed),
        }
        write_json(folder / "circuit.json", content)
        with (folder / "trace.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*(column.name for column in fields(Decision)), "change"])
            writer.writerows([*asdict(decision).values(), decision.change] for decision in self.trace)
        tensors = {"embed": self.ablation.embed, "sources": self.ablation.sources}
        for layer, (heads, neurons) in enumerate(zip(self.ablation.heads, self.ablation.neurons, strict=True)):
            tensors |= {f"heads.{layer}": heads, f"neurons.{layer}": neurons}
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "ablation.safetensors"
        )

    def _rows(self, edges: tuple[Edge, ...]) -> list[list[str | float | None]]:
        """Sender, receiver, score, frequency and gate of each edge; None where unknown."""
        gates = self.gates or {}
        indices = ((self.graph.receiver_index[receiver], self.graph.sender_index[sender]) for sender, receiver in edges)
        return [
            [*edge, *(_value_at(values, index) for values in (self.scores, self.frequency)), gates.get(edge)]
            for edge, index in zip(edges, indices, strict=True)
        ]

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Circuit:
        """Read what ``save`` wrote; CheckpointError if it is missing, broken, changed or of another format."""
        folder = Path(folder)
        content: dict[str, Any] = read_json(folder / "circuit.json")
        try:
            if content["format"] != FORMAT:
                raise CheckpointError(
                    f"{folder / 'circuit.json'}: format {content['format']}, but this vitprune reads format {FORMAT}"
                )
            graph = _graph(content["graph"])
            rows = content["kept"] + content["removed"]
            keep_mask = graph.mask_of([(sender, receiver) for sender, receiver, *_ in content["kept"]])
            tensors = load_file(folder / "ablation.safetensors", device=str(device))
            with (folder / "trace.csv").open(newline="", encoding="utf-8") as file:
                trace = tuple(_decision(row) for row in csv.DictReader(file))
            circuit = cls(
                graph=graph,
                keep_mask=keep_mask,
                ablation=_ablation(content["ablation"], tensors, len(graph.layer_heads)),
                kl=content["kl"],
                method=content["method"],
                metric=content["metric"],
                tau=content["tau"],
                scores=_by_edge(graph, [(sender, receiver, score) for sender, receiver, score, _, _ in rows]),
                frequency=_by_edge(graph, [(sender, receiver, share) for sender, receiver, _, share, _ in rows]),
                gates={(sender, receiver): gate for sender, receiver, _, _, gate in rows if gate} or None,
                trace=trace,
            )
        except (KeyError, TypeError, ValueError, OSError, SafetensorError, CircuitError) as error:
            raise CheckpointError(f"{folder}: not a saved circuit ({error}); run the acdc stage again") from error
        check_unchanged(folder)
        return circuit


class _Masked(ImageIndexed):
    def __init__(self, circuit: Circuit, model: ViT) -> None:
        super().__init__()
        self.circuit, self.model = circuit, model

    def forward(self, images: Tensor, first: int = 0) -> Tensor:
        return self.circuit.logits(self.model, images, first=first)


def kept_of(total: int, kept: int) -> dict[str, int | float]:
    """Two counts and the share removed, as metrics."""
    return {"total": total, "kept": kept, "removed_share": round(1 - kept / total, 4) if total else 0.0}


def scores_of_trace(graph: Graph, trace: Iterable[Decision]) -> Tensor:
    """The change of the metric for each edge that was tested, ``(receivers, senders)``; NaN for the others.

    All edges out of a node that was tested as a whole get the change of the node.
    """
    scores = torch.full(graph.all_edges.shape, math.nan, dtype=torch.float64)
    for decision in trace:
        if decision.action in ("removed", "kept"):
            column = graph.sender_index[decision.sender]
            if decision.receiver == ALL_RECEIVERS:
                scores[graph.all_edges[:, column], column] = decision.change
            else:
                scores[graph.receiver_index[decision.receiver], column] = decision.change
    return scores


def _graph(content: dict[str, Any]) -> Graph:
    return Graph(
        tuple(content["layer_heads"]),
        tuple(content["layer_neurons"]),
        content["split_qkv"],
        content["mlp_groups"],
        # Circuits of earlier versions do not name it.
        content.get("pooling", "class"),
    )


def _ablation(content: dict[str, Any], tensors: dict[str, Tensor], num_layers: int) -> Ablation:
    return Ablation(
        **content,
        embed=tensors["embed"],
        # Resample and noise ablation have neither.
        heads=tuple(tensors[f"heads.{layer}"] for layer in range(num_layers) if f"heads.{layer}" in tensors),
        neurons=tuple(tensors[f"neurons.{layer}"] for layer in range(num_layers) if f"neurons.{layer}" in tensors),
        sources=tensors["sources"],
    )


def _value_at(values: Tensor | None, index: tuple[int, int]) -> float | None:
    return None if values is None or values[index].isnan() else float(values[index])


def _by_edge(graph: Graph, rows: list[tuple[str, str, float | None]]) -> Tensor | None:
    """The values of senders and receivers as ``(receivers, senders)``, NaN where unknown; None if all are."""
    if all(value is None for _, _, value in rows):
        return None
    values = torch.full(graph.all_edges.shape, math.nan, dtype=torch.float64)
    for sender, receiver, value in rows:
        values[graph.receiver_index[receiver], graph.sender_index[sender]] = math.nan if value is None else value
    return values


def _decision(row: dict[str, Any]) -> Decision:
    return Decision(
        sender=row["sender"],
        receiver=row["receiver"],
        action=row["action"],
        before=float(row["before"]),
        after=float(row["after"]),
        direction=row["direction"],
    )
