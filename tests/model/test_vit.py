import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from vitprune.errors import ConfigError
from vitprune.model import ViT, ViTConfig
from vitprune.model.vit import drop_rows

SHAPE = {
    "image_size": 8,
    "patch_size": 4,
    "in_channels": 3,
    "num_classes": 5,
    "d_model": 16,
    "num_layers": 2,
    "num_heads": 4,
    "d_mlp": 24,
}


def test_intermediates_and_biases_add_up_to_the_last_stream():
    model = random_model(1, num_layers=3, in_channels=3)
    images = random_images(model)
    logits, intermediates = model(images, return_intermediates=True)
    assert list(intermediates)[:4] == ["embed", "a0.h0", "a0.h1", "m0"]
    biases = sum(block.attention.out.bias + block.mlp.out.bias for block in model.blocks)
    torch.testing.assert_close(model.classify(sum(intermediates.values()) + biases), logits)


def test_conv_and_linear_patch_embeddings_are_the_same_map():
    torch.manual_seed(0)
    linear, conv = ViT(ViTConfig(**SHAPE)), ViT(ViTConfig(**SHAPE, patch_embedding="conv"))
    weights = linear.state_dict()
    # The linear map reads a patch as (row, column, channel), the convolution as (channel, row, column).
    weights["patches.weight"] = weights["patches.weight"].unflatten(1, (4, 4, 3)).permute(0, 3, 1, 2)
    conv.load_state_dict(weights)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(conv.eval()(images), linear.eval()(images))


def test_tokens_are_class_token_first_then_patches_row_by_row():
    model = ViT(ViTConfig(**SHAPE)).eval()
    images = torch.zeros(1, 3, 8, 8)
    images[0, :, 0:4, 4:8] = 1.0
    changed = (model.embed(images) - model.embed(torch.zeros_like(images))).abs().sum(-1)[0]
    assert changed.nonzero().flatten().tolist() == [2]


def test_with_mean_pooling_the_tokens_are_the_patches_and_all_count_alike():
    model = random_model(2, dtype=torch.float32, pooling="mean")
    assert model.class_token is None
    images = random_images(model)
    stream = model.embed(images)
    assert stream.shape == (6, 4, 8)
    by_hand = sum(model.classifier(model.norm(stream[:, token])) for token in range(4)) / 4
    torch.testing.assert_close(model.classify(stream), by_hand)
    torch.testing.assert_close(model.classify(stream.flip(1)), by_hand)


def test_fixed_positions_are_no_parameter_and_are_zero_at_the_class_token():
    model = ViT(ViTConfig(**SHAPE, positions="sincos"))
    assert "positions" not in dict(model.named_parameters())
    assert "positions" in model.state_dict()
    assert model.positions.shape == (5, 16)
    assert not model.positions[0].any()
    without = ViT(ViTConfig(**SHAPE, positions="sincos", pooling="mean"))
    assert torch.equal(without.positions, model.positions[1:])
    written = model.positions.clone()
    model.positions += 1
    model.initialise()
    assert torch.equal(model.positions, written)


def test_layers_may_lack_heads_or_neurons():
    model = ViT(ViTConfig(**SHAPE, heads_per_layer=(0, 3), neurons_per_layer=(7, 0)))
    assert model.blocks[0].attention is None
    assert model.blocks[1].mlp is None
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 5)


def test_dropout_and_stochastic_depth_act_in_training_only():
    torch.manual_seed(0)
    model = ViT(ViTConfig(**SHAPE, dropout=0.3, drop_path=0.5))
    images = torch.randn(4, 3, 8, 8)
    assert not torch.equal(model.train()(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, r"d_model \(16\) is not divisible by num_heads \(3\)"),
        ({"patch_size": 3}, r"image_size \(8\) is not divisible by patch_size \(3\)"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"patch_embedding": "mlp"}, "patch_embedding must be one of linear, conv, shifted, got 'mlp'"),
        ({"positions": "rotary"}, "positions must be one of learned, sincos, got 'rotary'"),
        ({"pooling": "max"}, "pooling must be one of class, mean, got 'max'"),
        ({"positions": "sincos", "d_model": 6, "num_heads": 2}, r"d_model \(6\) is not divisible by 4"),
        ({"patch_embedding": "shifted", "patch_size": 1}, "patch_size 1 has no half to shift by"),
        ({"heads_per_layer": (4,)}, r"heads_per_layer needs 2 counts of at least 0, got \[4\]"),
    ],
)
def test_an_impossible_shape_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        ViTConfig(**SHAPE | change)


def test_stochastic_depth_zeroes_whole_images_and_keeps_the_expectation():
    torch.manual_seed(0)
    dropped = drop_rows(torch.ones(20_000, 3, 2), 0.25)
    per_image = dropped.flatten(1)
    assert torch.equal(per_image, per_image[:, :1].expand_as(per_image))
    assert sorted(set(per_image[:, 0].tolist())) == pytest.approx([0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
