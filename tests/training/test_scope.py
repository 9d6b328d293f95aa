import torch

from tests.training.conftest import tiny_model, train_tiny
from vitprune.training.scope import only_cut_parts


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_only_what_lost_something_is_trained():
    model = tiny_model(heads_per_layer=(1, 2), neurons_per_layer=(32, 16))
    with only_cut_parts(model):
        found = trained(model)
    layers = {".".join(name.split(".")[:3]) for name in found if name.startswith("blocks")}
    assert layers == {"blocks.0.attention", "blocks.1.mlp"}
    assert "positions" not in found
    assert trained(model) == {name for name, _ in model.named_parameters()}


def test_where_a_sublayer_is_gone_its_neighbour_is_trained():
    model = tiny_model(heads_per_layer=(0, 2), neurons_per_layer=(32, 32))
    with only_cut_parts(model):
        found = trained(model)
    assert any(name.startswith("blocks.0.mlp") for name in found)
    assert not any(name.startswith("blocks.1") for name in found)
    assert {"norm.weight", "classifier.weight"} <= found


def test_the_rest_stays_as_it_is(splits):
    model = tiny_model(heads_per_layer=(1, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with only_cut_parts(model):
        expected = trained(model)
        train_tiny(model, *splits)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert changed <= expected
    assert any(name.startswith("blocks.0.attention") for name in changed)
