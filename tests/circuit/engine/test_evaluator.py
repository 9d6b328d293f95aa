"""The damage of every candidate is that of a whole forward pass of the smaller circuit."""

import pytest
import torch

from tests.circuit.oracle import brute_kl, random_images, random_model
from vitprune.circuit import Ablation, Graph
from vitprune.circuit.engine.evaluator import IncrementalEvaluator


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_damages_are_those_of_brute_force_whatever_was_removed_before(pooling, batch_size):
    model = random_model(21, pooling=pooling, num_layers=3)
    images = random_images(model, count=3)
    graph, ablation = Graph.of(model, mlp_groups=2), Ablation.mean(model, random_images(model, seed=1))
    full = model(images).detach()
    generator = torch.Generator().manual_seed(0)
    keep_mask = graph.all_edges & (torch.rand(graph.all_edges.shape, generator=generator) < 0.8)
    evaluator = IncrementalEvaluator(model, images, graph, keep_mask, ablation, batch_size=batch_size, candidates=3)

    def brute(edges=()):
        kept = set(graph.named(evaluator.keep_mask)) - set(edges)
        return brute_kl(model, images, graph, kept, ablation, full)

    for row in torch.randperm(len(graph.receivers), generator=generator)[:12].tolist():
        columns = evaluator.keep_mask[row].nonzero().flatten().tolist()
        if len(columns) < 3:
            continue
        tried = [[(row, column) for column in columns[:count]] for count in (1, 2, 3)]
        names = [[(graph.senders[column].name, graph.receivers[row].name) for row, column in edges] for edges in tried]
        expected = [brute(edges) for edges in names]
        assert evaluator.damage_without(tried) == pytest.approx(expected, abs=1e-9)
        evaluator.accept(1)
        assert evaluator.damage == pytest.approx(brute(), abs=1e-9)
    incremental = evaluator.damage
    evaluator.refresh()
    assert evaluator.damage == pytest.approx(incremental, abs=1e-9)
