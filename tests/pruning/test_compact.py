import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Ablation, Circuit, Graph, discover
from vitprune.core.model import SavedModel, load_model, save_model
from vitprune.core.model.checkpoint import Preprocessing
from vitprune.pruning import compact, dense_circuit

SHAPES = [{}, {"pooling": "mean", "positions": "sincos", "patch_embedding": "shifted"}]


def random_circuit(model, images, *, kind, groups, density, seed):
    """A circuit whose nodes are dead or alive at random."""
    graph = Graph.of(model, mlp_groups=groups)
    ablation = Ablation.zero(model) if kind == "zero" else Ablation.mean(model, images)
    generator = torch.Generator().manual_seed(seed)
    alive = torch.rand(len(graph.senders), generator=generator) < density
    keep_mask = graph.all_edges & alive[None, :]
    return Circuit(graph=graph, keep_mask=keep_mask, ablation=ablation, kl=0.0, method="random", tau=0.0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    layers=st.integers(1, 4),
    heads=st.sampled_from([1, 2, 4]),
    groups=st.integers(1, 5),
    density=st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]),
    kind=st.sampled_from(["zero", "mean"]),
    tokens=st.fixed_dictionaries(
        {
            "pooling": st.sampled_from(["class", "mean"]),
            "positions": st.sampled_from(["learned", "sincos"]),
            "patch_embedding": st.sampled_from(["linear", "conv", "shifted"]),
        }
    ),
)
def test_the_compact_model_computes_what_the_masked_one_does(seed, layers, heads, groups, density, kind, tokens):
    model = random_model(seed, num_layers=layers, num_heads=heads, **tokens)
    images = random_images(model, seed=seed)
    circuit = random_circuit(model, images, kind=kind, groups=groups, density=density, seed=seed)
    masked = dense_circuit(circuit).logits(model, images)
    torch.testing.assert_close(compact(model, circuit)(images), masked, rtol=1e-9, atol=1e-9)


def test_the_compact_model_is_as_small_as_its_live_nodes():
    model = random_model(num_layers=3, num_heads=4)
    graph = Graph.of(model, mlp_groups=3)
    live = {"embed", "a0.h1", "a0.h3", "m1.g0", "m1.g2", "a2.h0"}
    keep_mask = graph.all_edges & torch.tensor([sender.name in live for sender in graph.senders])[None, :]
    circuit = Circuit(
        graph=graph, keep_mask=keep_mask, ablation=Ablation.zero(model), kl=0.0, method="by hand", tau=0.0
    )
    small = compact(model, circuit)
    assert small.config.layer_heads == (2, 0, 1)
    assert small.config.layer_neurons == (0, 8, 0)
    assert small.blocks[0].mlp is None
    assert small.blocks[1].attention is None
    assert small.positions.ndim == 2


def test_nothing_removed_leaves_the_model_as_it_was():
    model = random_model()
    images = random_images(model)
    circuit = discover(model, images, tau=0.0)
    whole = Circuit(
        graph=circuit.graph,
        keep_mask=circuit.graph.all_edges,
        ablation=circuit.ablation,
        kl=0.0,
        method="all",
        tau=0.0,
    )
    torch.testing.assert_close(compact(model, whole)(images), model(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_compacting_twice_is_compacting_once(shape):
    model = random_model(2, num_layers=3, **shape)
    images = random_images(model)
    once = compact(model, random_circuit(model, images, kind="mean", groups=3, density=0.5, seed=2))
    graph = Graph.of(once)
    whole = Circuit(
        graph=graph, keep_mask=graph.all_edges, ablation=Ablation.mean(once, images), kl=0.0, method="all", tau=0.0
    )
    twice = compact(once, whole)
    torch.testing.assert_close(twice(images), once(images), rtol=1e-12, atol=1e-12)
    assert twice.config == once.config


@pytest.mark.parametrize("shape", SHAPES)
def test_a_compact_model_can_be_pruned_again(shape):
    model = random_model(5, num_layers=3, **shape)
    images = random_images(model)
    once = compact(model, random_circuit(model, images, kind="mean", groups=3, density=0.7, seed=5))
    again = random_circuit(once, images, kind="mean", groups=2, density=0.6, seed=6)
    torch.testing.assert_close(
        compact(once, again)(images), dense_circuit(again).logits(once, images), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.5])
def test_a_compact_model_loads_and_trains(tmp_path, density, shape):
    model = random_model(3, dtype=torch.float32, **shape)
    images = random_images(model)
    small = compact(model, random_circuit(model, images, kind="mean", groups=3, density=density, seed=4))
    preprocessing = Preprocessing(mean=(0.5,), std=(0.2,))
    save_model(tmp_path / "m", SavedModel(model=small, preprocessing=preprocessing, class_names=("a", "b", "c")))
    loaded = load_model(tmp_path / "m").model
    torch.testing.assert_close(loaded(images), small(images))
    loaded(images).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())
