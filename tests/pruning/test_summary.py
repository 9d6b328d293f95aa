import torch

from tests.circuit.oracle import random_model
from vitprune.circuit import Ablation, Circuit, Graph
from vitprune.pruning import compact, describe_removal


def test_counts_are_those_of_the_circuit_and_of_the_compact_model():
    model = random_model(num_layers=2, num_heads=4, d_mlp=12)
    graph = Graph.of(model, mlp_groups=3)
    live = {"embed", "a0.h1", "m1.g0", "m1.g2"}
    keep_mask = graph.all_edges & torch.tensor([sender.name in live for sender in graph.senders])[None, :]
    circuit = Circuit(
        graph=graph, keep_mask=keep_mask, ablation=Ablation.zero(model), kl=0.0, method="by hand", tau=0.0
    )
    summary = describe_removal(circuit, compact(model, circuit))
    assert summary["edges"]["total"] == len(graph.edges)
    assert summary["edges"]["kept"] == len(circuit.kept)
    assert summary["heads"] == {"total": 8, "kept": 1, "removed_share": 0.875}
    assert summary["neurons"] == {"total": 24, "kept": 8, "removed_share": 0.6667}
    assert summary["sublayers"] == {"total": 4, "kept": 2, "removed_share": 0.5}
