import copy
import sys
from functools import partial

import pytest
import timm
import torch
from timm.layers import RmsNorm, SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ParallelThingsBlock, ResPostBlock
from torch import nn

from tests.pretrained.foreign import assert_same_logits, noise, shaken, small_timm
from tests.training.conftest import random_split, train_tiny
from vitprune.circuit import Ablation, Graph, discover
from vitprune.errors import PretrainedError
from vitprune.pretrained import from_timm
from vitprune.pruning import compact


def test_the_logits_of_a_known_architecture_are_the_same():
    original = shaken(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=10))
    converted = from_timm(original)
    assert_same_logits(converted, original)
    config = converted.config
    assert (config.image_size, config.patch_size, config.in_channels, config.num_classes) == (64, 16, 3, 10)
    assert (config.d_model, config.num_layers, config.num_heads, config.d_mlp) == (192, 3, 3, 768)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": 4},
        {"in_chans": 1},
        {"qkv_bias": False},
        {"proj_bias": False},
        {"init_values": 0.1},
        {"init_values": 0.1, "proj_bias": False},
        {"no_embed_class": True},
        {"dynamic_img_size": True},
        {"act_layer": "gelu"},
        {"drop_path_rate": 0.3, "proj_drop_rate": 0.2},
    ],
    ids=str,
)
def test_supported_features_give_the_same_logits(changes):
    original = small_timm(**changes)
    assert_same_logits(from_timm(original), original)


def test_the_original_stays_as_it_was():
    original = small_timm(init_values=0.1).train()
    before = copy.deepcopy(original.state_dict())
    converted = from_timm(original)
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.zero_()
    assert original.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in original.state_dict().items())


def test_a_model_in_half_precision_becomes_one_in_single_precision():
    original = small_timm().to(torch.bfloat16)
    assert_same_logits(from_timm(original), copy.deepcopy(original).float())


class Doubled(timm.models.VisionTransformer):
    """A feature that no check by name finds."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": VisionTransformerDistilled}, "a distillation token"),
        ({"class_token": False, "global_pool": "avg"}, "a model without class token, average pooling"),
        ({"reg_tokens": 2}, "register tokens"),
        ({"global_pool": "avg"}, "average pooling"),
        ({"global_pool": "map"}, "attention pooling"),
        ({"pos_embed": "none"}, "a model without learned positions"),
        ({"pre_norm": True}, "a norm before the first layer"),
        ({"fc_norm": True}, "a norm after pooling"),
        ({"final_norm": False}, "a model without final layer norm"),
        ({"num_classes": 0}, "a model without classifier"),
        ({"qk_norm": True}, "norms of queries and keys"),
        ({"norm_layer": partial(nn.LayerNorm, eps=1e-5)}, "layer norms with an epsilon of 1e-05"),
        ({"norm_layer": RmsNorm}, "RmsNorm instead of layer norms"),
        ({"act_layer": nn.ReLU}, "ReLU activations"),
        ({"act_layer": partial(nn.GELU, approximate="tanh")}, "GELU activations"),
        ({"mlp_layer": SwiGLU}, "MLPs of type SwiGLU"),
        ({"block_fn": ResPostBlock}, "layers of type ResPostBlock"),
        ({"block_fn": ParallelThingsBlock}, "layers of type ParallelThingsBlock"),
        ({"img_size": (16, 32)}, "images or patches that are not square"),
        ({"embed_norm_layer": nn.LayerNorm}, "a norm of the patches"),
        ({"scale_attn_norm": True}, r"the weights blocks\.0\.attn\.norm\.weight, .* and 1 more"),
        ({"kind": Doubled}, "its logits differ"),
    ],
)
def test_unsupported_features_are_refused_by_name(changes, message):
    with pytest.raises(PretrainedError, match=message):
        from_timm(small_timm(**changes))


def test_a_model_with_windows_is_not_a_vit():
    swin = timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), embed_dim=24)
    with pytest.raises(PretrainedError, match="it is a SwinTransformer, not a VisionTransformer of timm"):
        from_timm(swin)


def test_weights_that_are_not_finite_are_refused():
    original = small_timm()
    with torch.no_grad():
        original.blocks[1].mlp.fc1.weight[0, 0] = torch.nan
    with pytest.raises(PretrainedError, match="its weights are not finite"):
        from_timm(original)


def test_without_timm_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(PretrainedError, match=r"pip install 'timm>=1\.0'"):
        from_timm(nn.Identity())


def test_a_converted_model_is_searched_pruned_and_trained_like_any_other():
    model = from_timm(small_timm(img_size=8, patch_size=4, in_chans=1, num_classes=4))
    images = noise(model, 6)
    found = discover(
        model,
        images,
        graph=Graph.of(model, mlp_groups=2),
        ablation=Ablation.mean(model, images),
        tau=1e-3,
        granularity="node",
    )
    small = compact(model, found)
    assert 0 < len(found.kept) < len(found.graph.edges)
    with torch.no_grad():
        torch.testing.assert_close(small(images), found.logits(model, images), rtol=1e-4, atol=1e-4)
    before = small.blocks[0].mlp.hidden.weight.clone() if small.blocks[0].mlp else small.patches.weight.clone()
    train_tiny(small, random_split(16, seed=1), random_split(8, seed=2))
    after = small.blocks[0].mlp.hidden.weight if small.blocks[0].mlp else small.patches.weight
    assert not torch.equal(before, after)
