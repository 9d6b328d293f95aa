from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from tests.circuit.oracle import random_images, random_model
from tests.core.model.conftest import SHAPE
from vitprune.core.model import ViT, ViTConfig
from vitprune.core.model.vit import Intermediate, Record, drop_rows


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_a_tapped_pass_sees_every_intermediate_and_gives_the_same_logits(pooling):
    model = random_model(1, num_layers=3, heads_per_layer=(2, 0, 1), neurons_per_layer=(5, 12, 0), pooling=pooling)
    images = random_images(model)
    kinds = get_args(Intermediate)
    record, tokens = Record(*kinds), model.config.num_tokens
    torch.testing.assert_close(model.run(model.embed(images), record), model(images))
    attention, mlp = kinds[:3], kinds[3:6]
    expected = [(0, kind) for kind in kinds] + [(1, kind) for kind in (*mlp, "stream")]
    assert list(record) == expected + [(2, kind) for kind in (*attention, "stream")]
    assert {tuple(record[layer, "stream"].shape) for layer in range(3)} == {(6, tokens, 8)}
    assert record[0, "qkv"].shape == (6, tokens, 3 * 2 * 4)
    assert record[2, "heads"].shape == (6, 1, tokens, 4)
    torch.testing.assert_close(record[1, "neurons"], F.gelu(record[1, "hidden"]))


def test_what_heads_and_neurons_write_adds_up_to_the_last_stream():
    model = random_model(1, num_layers=3, in_channels=3)
    images = random_images(model)
    embed, record = model.embed(images), Record("heads", "neurons", "stream")
    model.run(embed, record)
    stream = embed
    for layer, block in enumerate(model.blocks):
        out, width = block.attention.out, model.config.d_head
        for head in range(2):
            columns = out.weight[:, head * width : (head + 1) * width]
            stream = stream + record[layer, "heads"][:, head] @ columns.T
        stream = stream + out.bias + record[layer, "neurons"] @ block.mlp.out.weight.T + block.mlp.out.bias
        torch.testing.assert_close(record[layer, "stream"], stream)


def test_a_tapped_pass_in_training_draws_the_same_dropout():
    model = random_model(1, dropout=0.3, drop_path=0.5, pooling="mean").train()
    images = random_images(model)
    torch.manual_seed(0)
    plain = model(images)
    torch.manual_seed(0)
    assert torch.equal(model.run(model.embed(images), Record("stream")), plain)


@pytest.mark.slow
def test_a_tapped_pass_compiles_without_a_break():
    model = random_model(1, dtype=torch.float32)
    images = random_images(model)

    def run(images):
        record = Record("stream")
        return model.run(model.embed(images), record), record[0, "stream"]

    logits, stream = torch.compile(run, backend="eager", fullgraph=True)(images)
    torch.testing.assert_close(logits, model(images))
    torch.testing.assert_close(stream, run(images)[1])


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


def test_stochastic_depth_zeroes_whole_images_and_keeps_the_expectation():
    torch.manual_seed(0)
    dropped = drop_rows(torch.ones(20_000, 3, 2), 0.25)
    per_image = dropped.flatten(1)
    assert torch.equal(per_image, per_image[:, :1].expand_as(per_image))
    assert sorted(set(per_image[:, 0].tolist())) == pytest.approx([0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
