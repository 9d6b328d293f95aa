"""What heads look at, against the softmax written out, and what they cost, against the masked model."""

import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Ablation, Circuit, Graph
from vitprune.circuit.heads import view_heads
from vitprune.circuit.metrics import kl_divergence


def attention_of(model, images, layer, head):
    """The weights with which one head's tokens read each other, ``(b, t, t)``, without batched products."""
    stream = model.embed(images)
    for number, block in enumerate(model.blocks):
        if number == layer:
            attention, width = block.attention, model.config.d_head
            read = attention.norm(stream)
            weight, bias = attention.qkv.weight, attention.qkv.bias
            starts = [(port * attention.num_heads + head) * width for port in (0, 1)]
            rows = [slice(start, start + width) for start in starts]
            queries, keys = (read @ weight[row].T + bias[row] for row in rows)
            return torch.softmax(torch.einsum("bqk,bsk->bqs", queries, keys) / width**0.5, dim=-1)
        stream = block(stream)
    raise AssertionError


@pytest.mark.parametrize("pooling", ["class", "mean"])
@torch.no_grad()
def test_views_show_the_attention_and_the_cost_of_each_head(pooling):
    model = random_model(pooling=pooling)
    images = random_images(model, count=70)
    labels = torch.arange(70) % 3
    ablation = Ablation.mean(model, images)
    views = list(view_heads(model, images, labels, ablation))
    assert [view.name for view in views] == ["a0.h0", "a0.h1", "a1.h0", "a1.h1"]
    graph = Graph.of(model)
    for view in views:
        weights = attention_of(model, images, view.layer, view.head)
        wanted = weights[:, 0, 1:] if pooling == "class" else weights.mean(dim=1)
        torch.testing.assert_close(view.attention, wanted)
        keep_mask = graph.all_edges.clone()
        keep_mask[:, graph.sender_index[view.name]] = False
        circuit = Circuit(graph=graph, keep_mask=keep_mask, ablation=ablation, kl=0.0, method="none")
        without, full = circuit.logits(model, images), model(images)
        assert float(view.kl.mean()) == pytest.approx(kl_divergence(full, without))
        right = [(logits.argmax(dim=1) == labels).double().mean().item() for logits in (full, without)]
        assert view.lost == pytest.approx(right[0] - right[1])
