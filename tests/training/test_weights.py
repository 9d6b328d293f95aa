import torch

from tests.training.conftest import tiny_model, train_tiny, weights_of
from vitprune.training.weights import only_cut_sublayers, weight_matrices, weights_digest


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_matrices_run_from_input_to_output():
    assert list(weight_matrices(tiny_model(token_biases=True))) == [
        "patches",
        *("a0.qkv", "a0.out", "m0.hidden", "m0.out"),
        *("a1.qkv", "a1.out", "m1.hidden", "m1.out"),
        "classifier",
    ]


def test_a_digest_changes_with_the_last_bit_of_a_weight():
    model, same = tiny_model(), tiny_model()
    assert weights_digest(model) == weights_digest(same)
    with torch.no_grad():
        same.classifier.bias[0] = torch.nextafter(same.classifier.bias[0], torch.tensor(1.0))
    assert weights_digest(model) != weights_digest(same)


def test_only_sublayers_that_lost_something_are_trained():
    model = tiny_model(heads_per_layer=(1, 2), neurons_per_layer=(32, 16))
    with only_cut_sublayers(model):
        names = trained_names(model)
    sublayers = {".".join(name.split(".")[:3]) for name in names if name.startswith("blocks")}
    assert sublayers == {"blocks.0.attention", "blocks.1.mlp"}
    assert "positions" not in names
    assert trained_names(model) == {name for name, _ in model.named_parameters()}


def test_the_other_sublayer_of_a_missing_one_is_trained():
    model = tiny_model(heads_per_layer=(0, 2), neurons_per_layer=(32, 32))
    with only_cut_sublayers(model):
        names = trained_names(model)
    assert {name.split(".")[2] for name in names if name.startswith("blocks.0")} == {"mlp"}
    assert not any(name.startswith("blocks.1") for name in names)
    assert {"norm.weight", "classifier.weight"} <= names


def test_training_leaves_the_other_weights_as_they_are(splits):
    model = tiny_model(heads_per_layer=(1, 2))
    before = weights_of(model)
    with only_cut_sublayers(model):
        expected = trained_names(model)
        train_tiny(model, *splits)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= expected
    assert "blocks.0.attention.qkv.weight" in changed
