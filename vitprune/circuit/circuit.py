"""The result of every search: which edges were kept, and how that came about."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.graph import Edge, Graph
from vitprune.circuit.masked import run_masked
from vitprune.errors import CheckpointError, CircuitError
from vitprune.model.vit import ViT
from vitprune.storage import atomic_folder, read_json, write_json

FORMAT = 1
ALL_RECEIVERS = "*"
"""In a decision about a node: all receivers of its outgoing edges."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One step of a search: what would the KL be without this edge (or all edges out of this node), and was it removed?

    ``unreachable`` means removed without a test, because no path led from there to the logits.
    """

    sender: str
    receiver: str
    action: Literal["removed", "kept", "unreachable"]
    kl_before: float
    kl_after: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Circuit:
    """A graph with the edges that were kept.

    ``keep_mask (receivers, senders)`` is True where an edge stays, ``kl`` is KL(full ‖ circuit) in nats on the images
    of the search, ``trace`` every decision in the order taken.
    """

    graph: Graph
    keep_mask: Tensor
    ablation: Ablation
    kl: float
    method: str
    tau: float
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

    def logits(self, model: ViT, images: Tensor, batch_size: int = 256) -> Tensor:
        """Exact masked forward pass: logits ``(b, classes)`` for normalised images ``(b, c, height, width)``.

        Raises CircuitError for a model with another graph or images that the model cannot take.
        """
        removed_writes = self.ablation.writes(model, self.graph)
        batches = images.split(batch_size) if len(images) else (images,)
        return torch.cat([run_masked(model, batch, self.graph, self.keep_mask, removed_writes)[0] for batch in batches])

    def as_module(self, model: ViT) -> nn.Module:
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
            "tau": self.tau,
            "kl": self.kl,
            "ablation": self.ablation.kind,
            "graph": asdict(self.graph),
            "kept": [list(edge) for edge in self.kept],
        }
        write_json(folder / "circuit.json", content)
        with (folder / "trace.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([column.name for column in fields(Decision)])
            writer.writerows(asdict(decision).values() for decision in self.trace)
        tensors = {"embed": self.ablation.embed}
        for layer, (heads, neurons) in enumerate(zip(self.ablation.heads, self.ablation.neurons, strict=True)):
            tensors |= {f"heads.{layer}": heads, f"neurons.{layer}": neurons}
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "ablation.safetensors"
        )

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
                tuple(shape["layer_heads"]), tuple(shape["layer_neurons"]), shape["split_qkv"], shape["mlp_groups"]
            )
            keep_mask = graph.mask_of([(sender, receiver) for sender, receiver in content["kept"]])
            tensors = load_file(folder / "ablation.safetensors", device=str(device))
            layers = range(len(graph.layer_heads))
            ablation = Ablation(
                kind=content["ablation"],
                embed=tensors["embed"],
                heads=tuple(tensors[f"heads.{layer}"] for layer in layers),
                neurons=tuple(tensors[f"neurons.{layer}"] for layer in layers),
            )
            with (folder / "trace.csv").open(newline="", encoding="utf-8") as file:
                trace = tuple(_decision(row) for row in csv.DictReader(file))
            return cls(
                graph=graph,
                keep_mask=keep_mask,
                ablation=ablation,
                kl=content["kl"],
                method=content["method"],
                tau=content["tau"],
                trace=trace,
            )
        except (KeyError, TypeError, ValueError, OSError, SafetensorError, CircuitError) as error:
            raise CheckpointError(f"{folder}: not a saved circuit ({error}); run the acdc stage again") from error


class _Masked(nn.Module):
    def __init__(self, circuit: Circuit, model: ViT) -> None:
        super().__init__()
        self.circuit, self.model = circuit, model

    def forward(self, images: Tensor) -> Tensor:
        return self.circuit.logits(self.model, images)


def _decision(row: dict[str, Any]) -> Decision:
    return Decision(**row | {"kl_before": float(row["kl_before"]), "kl_after": float(row["kl_after"])})
