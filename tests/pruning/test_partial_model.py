import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Ablation
from vitprune.circuit.metrics import kl_divergence
from vitprune.pruning import cut
from vitprune.pruning.fold import Fold
from vitprune.pruning.partial_model import PartialModel

ABLATIONS = {"zero": lambda model, images: Ablation.zero(model), "mean": Ablation.mean}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from(
        [
            {"num_layers": 3},
            {"num_layers": 2, "pooling": "mean", "patch_embedding": "shifted"},
            {"num_layers": 3, "heads_per_layer": (2, 0, 1), "neurons_per_layer": (5, 12, 0), "token_biases": True},
        ]
    ),
    kind=st.sampled_from(["zero", "mean", "affine"]),
    group_size=st.sampled_from([1, 4, 5, 12]),
    batch_size=st.sampled_from([None, 3]),
    data=st.data(),
)
def test_its_kl_is_that_of_the_compact_model_whatever_is_removed_and_restored(
    seed, shape, kind, group_size, batch_size, data
):
    model = random_model(seed, **shape)
    images = random_images(model, seed=seed)
    fold = Fold.affine(model, images) if kind == "affine" else Fold.mean(ABLATIONS[kind](model, images), model)
    partial = PartialModel(model, images, fold, batch_size)
    full = model(images).detach()
    everything, gone = partial.units(group_size), []
    for _ in range(6):
        left = [unit for unit in everything if unit not in gone]
        comes_back = bool(gone) and (not left or data.draw(st.booleans()))
        unit = data.draw(st.sampled_from(gone if comes_back else left))
        promise, shape_of = (
            (partial.kl_with, partial.config_with) if comes_back else (partial.kl_without, partial.config_without)
        )
        promised, promised_shape = promise(unit), shape_of(unit)
        if comes_back:
            partial.restore(unit)
            gone.remove(unit)
        else:
            partial.remove(unit)
            gone.append(unit)
        small = cut(model, partial.survivors, fold)
        assert partial.kl == pytest.approx(kl_divergence(full, small(images).detach()), abs=1e-9)
        assert promised == pytest.approx(partial.kl, abs=1e-9)
        assert small.config.layer_heads == promised_shape.layer_heads == partial.config.layer_heads
        assert small.config.layer_neurons == promised_shape.layer_neurons == partial.config.layer_neurons


def test_it_goes_back_to_what_it_had():
    model = random_model(3, num_layers=3)
    partial = PartialModel(model, random_images(model), Fold.mean(Ablation.zero(model), model))
    units = partial.units(4)
    for unit in units[::2]:
        partial.remove(unit)
    kept, distance = partial.kept, partial.kl
    for unit in units[1::2]:
        partial.remove(unit)
    assert partial.kl != distance
    partial.keep(kept)
    assert (partial.kept, partial.kl) == (kept, pytest.approx(distance, abs=1e-12))


def test_units_are_heads_and_groups_of_neurons():
    model = random_model(num_layers=2, num_heads=2, d_mlp=10)
    partial = PartialModel(model, random_images(model), Fold.mean(Ablation.zero(model), model))
    names = [unit.name for unit in partial.units(4)]
    assert names[:6] == ["a0.h0", "a0.h1", "m0.g0", "m0.g1", "m0.g2", "a1.h0"]
    by_name = {unit.name: unit.members for unit in partial.units(4)}
    assert by_name["m1.g2"] == (8, 9)
    assert by_name["a1.h1"] == (1,)


def test_an_ablation_of_another_model_is_refused():
    model = random_model(num_layers=2)
    with pytest.raises(Exception, match="the ablation was made for another model"):
        Fold.mean(Ablation.zero(random_model(num_layers=3)), model)


def test_no_more_images_go_through_the_model_at_once_than_are_allowed():
    model = random_model(num_layers=2)
    images, seen = random_images(model, count=7), []
    model.patches.register_forward_hook(lambda module, given, out: seen.append(len(out)))
    partial = PartialModel(model, images, Fold.mean(Ablation.zero(model), model), batch_size=3)
    partial.remove(partial.units(4)[0])
    assert seen == [3, 3, 1] * 2
