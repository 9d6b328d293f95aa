import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.circuit.oracle import brute_writes, random_images, random_model
from vitprune.circuit import Ablation, Circuit, Graph
from vitprune.errors import CircuitError

layer_counts = st.integers(1, 4).flatmap(
    lambda layers: st.tuples(
        st.lists(st.integers(0, 4), min_size=layers, max_size=layers).map(tuple),
        st.lists(st.integers(0, 9), min_size=layers, max_size=layers).map(tuple),
    )
)
graphs = st.builds(
    lambda counts, *options: Graph(*counts, *options),
    layer_counts,
    st.booleans(),
    st.integers(1, 4),
    st.sampled_from(["class", "mean"]),
)


def masks_of(graph, seed, density=0.4):
    generator = torch.Generator().manual_seed(seed)
    return graph.all_edges & (torch.rand(graph.all_edges.shape, generator=generator) < density)


@pytest.mark.parametrize(
    ("layers", "heads", "split", "count"),
    [(12, 8, True, 15355), (12, 8, False, 5659), (6, 4, True, 1108)],
)
def test_published_sizes_have_their_number_of_edges(layers, heads, split, count):
    assert len(Graph((heads,) * layers, (16,) * layers, split).edges) == count


@given(layers=st.integers(1, 6), heads=st.integers(1, 6), split=st.booleans())
def test_the_number_of_edges_follows_the_formula(layers, heads, split):
    ports = 3 if split else 1
    formula = (ports * heads + 1) * (heads + 1) * layers * (layers - 1) // 2
    formula += ports * heads * layers + 2 * (heads + 1) * layers + 1
    assert len(Graph((heads,) * layers, (8,) * layers, split).edges) == formula


@given(graphs)
def test_edges_run_forward_only(graph):
    level = {node.name: node.level for node in graph.nodes}
    level |= {receiver.name: receiver.node.level for receiver in graph.receivers}
    assert all(level[sender] < level[receiver] for sender, receiver in graph.edges)
    assert len(set(graph.edges)) == len(graph.edges)


@given(graphs)
def test_neuron_groups_share_out_all_neurons_in_order(graph):
    for layer, neurons in enumerate(graph.layer_neurons):
        shared = [neuron for group in graph.group_slices(layer) for neuron in range(group.start, group.stop)]
        assert shared == list(range(neurons))
        sizes = {group.stop - group.start for group in graph.group_slices(layer)}
        assert not sizes or max(sizes) - min(sizes) <= 1


@given(graphs, st.integers(0, 10_000))
def test_closing_keeps_only_edges_on_a_path_and_is_idempotent(graph, seed):
    keep_mask = masks_of(graph, seed)
    closed = graph.close(keep_mask)
    assert not (closed & ~keep_mask).any()
    assert torch.equal(graph.close(closed), closed)
    kept = set(graph.named(closed))
    # Every node that sends is fed by something, and every node that reads sends on.
    senders = {sender for sender, _ in kept}
    readers = {receiver.node.name for receiver in graph.receivers if any(edge[1] == receiver.name for edge in kept)}
    assert senders - {"embed"} <= readers
    assert readers - {"logits"} <= senders


@given(graphs, st.integers(0, 10_000))
def test_names_and_masks_translate_back_and_forth(graph, seed):
    keep_mask = masks_of(graph, seed)
    assert torch.equal(graph.mask_of(graph.named(keep_mask)), keep_mask)


def test_an_edge_that_is_not_in_the_graph_is_refused():
    with pytest.raises(CircuitError, match=r"m0 → a0\.h0\.q is not an edge"):
        Graph((1,), (4,)).mask_of([("m0", "a0.h0.q")])


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_the_full_circuit_is_the_model(split, groups, pooling):
    model = random_model(1, num_layers=3, dtype=torch.float32, pooling=pooling)
    images = random_images(model)
    graph = Graph.of(model, split, groups)
    full = Circuit(graph=graph, keep_mask=graph.all_edges, ablation=Ablation.zero(model), kl=0.0, method="all", tau=0.0)
    torch.testing.assert_close(full.logits(model, images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_the_empty_circuit_answers_the_same_for_every_image(pooling):
    model = random_model(2, num_layers=2, pooling=pooling)
    images = random_images(model)
    graph = Graph.of(model)
    empty = Circuit(
        graph=graph,
        keep_mask=torch.zeros_like(graph.all_edges),
        ablation=Ablation.mean(model, images),
        kl=0.0,
        method="none",
        tau=0.0,
    )
    logits = empty.logits(model, images)
    torch.testing.assert_close(logits, logits[:1].expand_as(logits))
    written = brute_writes(model, images)
    mean_writes = sum(written[sender.name].mean(0) for sender in graph.senders)
    biases = sum(block.attention.out.bias + block.mlp.out.bias for block in model.blocks)
    torch.testing.assert_close(logits[:1], model.classify((mean_writes + biases)[None]))


@given(graphs, st.integers(0, 10_000))
def test_what_matters_is_what_walking_back_from_the_logits_finds(graph, seed):
    keep_mask = masks_of(graph, seed, density=0.3)
    senders_of = {receiver.name: [] for receiver in graph.receivers}
    for sender, receiver in graph.named(keep_mask):
        senders_of[receiver].append(sender)
    seen, todo = set(), [("logits", graph.pooling == "mean")]
    while todo:
        node, everywhere = state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        for receiver in graph.receivers:
            if receiver.node.name == node:
                attends = receiver.node.kind == "head" and receiver.port != "q"
                todo += [(sender, everywhere or attends) for sender in senders_of[receiver.name]]
    live, everywhere = graph.what_matters(keep_mask)
    names = [sender.name for sender in graph.senders]
    assert live.tolist() == [(name, False) in seen or (name, True) in seen for name in names]
    assert everywhere.tolist() == [(name, True) in seen for name in names]
