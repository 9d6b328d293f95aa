"""The result of every search: which edges were kept, and how that came about."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
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
from vitprune.errors import CheckpointError, CircuitError
from vitprune.model.predict import ImageIndexed
from vitprune.model.vit import ViT
from vitprune.storage import atomic_folder, read_json, write_json

FORMAT = 2
ALL_RECEIVERS = "*"
"""In a decision about a node: all receivers of its outgoing edges."""


Action = Literal["removed", "kept", "unreachable", "removed-untested", "kept-untested"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One step of a search: the metric before, what it is without this edge (or all edges out of this node), and so?

    ``unreachable`` means removed without a test, because no path led from there to the logits; ``…-untested`` that
    attribution settled it.
    """

    sender: str
    receiver: str
    action: Action
    before: float
    after: float

    @property
    def change(self) -> float:
        """By how much the metric grows."""
        return self.after - self.before


@dataclass(frozen=True, kw_only=True, eq=False)
class Circuit:
    """A graph with the edges that were kept.

    ``keep_mask (receivers, senders)`` is True where an edge stays. ``kl`` is KL(full ‖ circuit) in nats on the images
    of the search. ``scores (receivers, senders)`` says how much each edge matters by the method's own measure, NaN
    where that is not known. ``trace`` has every decision in the order taken; ``tau`` is None if there was no threshold.
    """

    graph: Graph
    keep_mask: Tensor
    ablation: Ablation
    kl: float
    method: str
    metric: MetricName = "kl"
    tau: float | None = None
    scores: Tensor | None = None
    trace: tuple[Decision, ...] = ()

    @cached_property
    def kept(self) -> tuple[Edge, ...]:
        """Edges that stay, in the graph's order."""
        return self.graph.named(self.keep_mask)

    @cached_property
    def removed(self) -> tuple[Edge, ...]:
        """Edges that are ablated, in the graph's order."""
        return self.graph.named(self.graph.all_edges & ~self.keep_mask)

    @cached_property
    def live_nodes(self) -> tuple[str, ...]:
        """Heads and MLPs (or neuron groups) on a path from ``embed`` to ``logits``."""
        live = self.graph.reach_logits(self.keep_mask) & self.graph.reached_from_embed(self.keep_mask)
        return tuple(node.name for node, is_live in zip(self.graph.senders, live.tolist(), strict=True) if is_live)[1:]

    def closed(self) -> Circuit:
        """The same circuit without edges that are on no path from ``embed`` to ``logits``.

        Nodes that nothing reaches are thereby ablated themselves; ``kl`` remains that of the search.
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
        """The same circuit, its ``kl`` computed from scratch on these images."""
        if full_logits is None:
            with torch.no_grad():
                full_logits = torch.cat([model(batch) for batch in images.split(256)])
        return replace(self, kl=kl_divergence(full_logits, self.logits(model, images, batch_size=32)))

    def as_module(self, model: ViT) -> ImageIndexed:
        """The circuit as a module from normalised images to logits, to be used wherever a model is."""
        return _Masked(self, model)

    def save(self, folder: Path) -> None:
        """Write ``circuit.json``, ``trace.csv`` and ``ablation.safetensors`` into a folder that appears whole."""
        with atomic_folder(Path(folder)) as partial:
            self.write_files(partial)

    def write_files(self, folder: Path) -> None:
        """Write the files of a circuit into a folder that is there already."""
        content = {
            "format": FORMAT,
            "method": self.method,
            "metric": self.metric,
            "tau": self.tau,
            "kl": self.kl,
            "ablation": {"kind": self.ablation.kind, "std": self.ablation.std, "seed": self.ablation.seed},
            "graph": asdict(self.graph),
            "kept": self._scored(self.kept),
            "removed": self._scored(self.removed),
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

    def _scored(self, edges: tuple[Edge, ...]) -> list[list[str | float | None]]:
        """Sender, receiver and score of each edge; the score is None where it is not known."""
        places = ((self.graph.receiver_index[receiver], self.graph.sender_index[sender]) for sender, receiver in edges)
        scores = [math.nan if self.scores is None else float(self.scores[place]) for place in places]
        return [[*edge, None if math.isnan(score) else score] for edge, score in zip(edges, scores, strict=True)]

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Circuit:
        """Read what ``save`` wrote; CheckpointError if it is missing, broken or of another format."""
        folder = Path(folder)
        content: dict[str, Any] = read_json(folder / "circuit.json")
        try:
            if content["format"] != FORMAT:
                raise CheckpointError(
                    f"{folder / 'circuit.json'}: format {content['format']}, but this vitprune reads format {FORMAT}"
                )
            shape = content["graph"]
            graph = Graph(
                tuple(shape["layer_heads"]),
                tuple(shape["layer_neurons"]),
                shape["split_qkv"],
                shape["mlp_groups"],
                # Older circuits do not name it.
                shape.get("pooling", "class"),
            )
            scored = [(sender, receiver, score) for sender, receiver, score in content["kept"] + content["removed"]]
            keep_mask = graph.mask_of([(sender, receiver) for sender, receiver, _ in content["kept"]])
            tensors = load_file(folder / "ablation.safetensors", device=str(device))
            layers = range(len(graph.layer_heads))
            ablation = Ablation(
                **content["ablation"],
                embed=tensors["embed"],
                heads=tuple(tensors[f"heads.{layer}"] for layer in layers if f"heads.{layer}" in tensors),
                neurons=tuple(tensors[f"neurons.{layer}"] for layer in layers if f"neurons.{layer}" in tensors),
                sources=tensors["sources"],
            )
            with (folder / "trace.csv").open(newline="", encoding="utf-8") as file:
                trace = tuple(_decision(row) for row in csv.DictReader(file))
            return cls(
                graph=graph,
                keep_mask=keep_mask,
                ablation=ablation,
                kl=content["kl"],
                method=content["method"],
                metric=content["metric"],
                tau=content["tau"],
                scores=_scores(graph, scored),
                trace=trace,
            )
        except (KeyError, TypeError, ValueError, OSError, SafetensorError, CircuitError) as error:
            raise CheckpointError(f"{folder}: not a saved circuit ({error}); run the acdc stage again") from error


class _Masked(ImageIndexed):
    def __init__(self, circuit: Circuit, model: ViT) -> None:
        super().__init__()
        self.circuit, self.model = circuit, model

    def forward(self, images: Tensor, first: int = 0) -> Tensor:
        return self.circuit.logits(self.model, images, first=first)


def scores_of_trace(graph: Graph, trace: Iterable[Decision]) -> Tensor:
    """For each edge that was tested the change of the metric, as ``(receivers, senders)``; elsewhere NaN.

    The edges out of a node that was tested as a whole share its change.
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


def _scores(graph: Graph, scored: list[tuple[str, str, float | None]]) -> Tensor | None:
    if all(score is None for _, _, score in scored):
        return None
    scores = torch.full(graph.all_edges.shape, math.nan, dtype=torch.float64)
    for sender, receiver, score in scored:
        scores[graph.receiver_index[receiver], graph.sender_index[sender]] = math.nan if score is None else score
    return scores


def _decision(row: dict[str, Any]) -> Decision:
    return Decision(
        sender=row["sender"],
        receiver=row["receiver"],
        action=row["action"],
        before=float(row["before"]),
        after=float(row["after"]),
    )
