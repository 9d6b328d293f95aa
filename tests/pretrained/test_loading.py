import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
import yaml
from safetensors.torch import save_file

from tests.pretrained.foreign import noise, shaken
from tests.run_command import run_stage
from vitprune.core.model import ViT, ViTConfig, load_model
from vitprune.core.packed import SPLITS
from vitprune.data.cleaning.packing import SplitContent, write_packed
from vitprune.errors import ConfigError, PretrainedError
from vitprune.pretrained import load_pretrained
from vitprune.pretrained.loading import read_weights

ROOT = Path(__file__).parents[2]
NAME = "timm/vit_tiny_patch16_224"
SHAPE = {"patch_size": 16, "d_model": 192, "num_layers": 12, "num_heads": 3, "d_mlp": 768}
TINY = ViTConfig(image_size=32, in_channels=3, num_classes=4, **SHAPE)


@pytest.fixture(scope="module")
def original():
    """timm's smallest ViT with random weights, which stand for pretrained ones."""
    return shaken(timm.create_model("vit_tiny_patch16_224"))


@pytest.fixture(scope="module")
def weights(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(original.state_dict(), path)
    return path


def test_weights_from_a_file_give_the_model_that_timm_makes_of_them(original, weights):
    model, preprocessing = load_pretrained(NAME, TINY, path=weights, generator=torch.Generator().manual_seed(3))
    new = ViT(TINY)
    new.initialise(torch.Generator().manual_seed(3))
    assert torch.equal(model.classifier.weight, new.classifier.weight)
    expected = copy.deepcopy(original)
    expected.set_input_size((32, 32))
    expected.head = model.classifier
    images = noise(model)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), expected(images), rtol=1e-4, atol=1e-4)
    assert model.config == TINY
    assert (preprocessing.mean, preprocessing.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.slow
def test_weights_of_torchvision_are_found_by_their_tag(tmp_path):
    original = torchvision.models.vit_b_32()
    torch.save(original.state_dict(), tmp_path / "vit_b_32.pth")
    shape = {"patch_size": 32, "d_model": 768, "num_layers": 12, "num_heads": 12, "d_mlp": 3072}
    config = ViTConfig(image_size=64, in_channels=1, num_classes=4, patch_embedding="conv", **shape)
    name = "torchvision/vit_b_32.IMAGENET1K_V1"
    model, preprocessing = load_pretrained(name, config, path=tmp_path / "vit_b_32.pth")
    last = original.encoder.layers[11].mlp[3].weight
    assert torch.equal(model.blocks[11].mlp.out.weight, last)
    assert torch.equal(model.patches.weight, original.conv_proj.weight.sum(1, keepdim=True))
    # ImageNet's means and deviations are 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225.
    assert preprocessing.mean == pytest.approx([0.449])
    assert preprocessing.std == pytest.approx([0.226])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/vit_tny_patch16_224", "timm has no such model; the nearest are timm/vit_tiny_patch16_224"),
        ("timm/vit_tiny_patch16_224.augreg_in21", r"the nearest are timm/vit_tiny_patch16_224\.augreg_in21k"),
        ("torchvision/vit_b_17", "torchvision has no such model; the nearest are torchvision/vit_b_16"),
        ("torchvision/vit_b_16.IMAGENET1K_V9", r"the nearest are torchvision/vit_b_16\.IMAGENET1K_V1"),
        ("timm/resnet18", "it is a ResNet, not a VisionTransformer of timm"),
        ("timm/vit_small_patch14_reg4_dinov2", "vitprune's ViT does not support register tokens"),
        ("keras/vit", "it is neither timm/NAME nor torchvision/NAME"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(name, message):
    with pytest.raises(PretrainedError, match=rf"model\.pretrained {name}: .*{message}"):
        load_pretrained(name, TINY)


def test_a_shape_that_disagrees_is_refused_before_anything_is_read(tmp_path):
    config = replace(TINY, patch_size=8, d_model=64, num_heads=4)
    values = r"model\.patch_size to 16 \(not 8\), model\.d_model to 192 \(not 64\), model\.num_heads to 3 \(not 4\)"
    with pytest.raises(ConfigError, match=rf"model\.pretrained {NAME}: its shape differs; set {values}"):
        load_pretrained(NAME, config, path=tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("blocks.3.mlp.fc2.bias"),
            r"of another model: they lack blocks\.3\.mlp\.fc2\.bias",
        ),
        (
            lambda state: state.update(reg_token=torch.zeros(1, 4, 192)),
            "of another model: they also have reg_token",
        ),
        (lambda state: state.update(cls_token=torch.zeros(1, 1, 64)), "another shape .*cls_token"),
    ],
)
def test_weights_of_another_model_are_refused(original, tmp_path, change, message):
    state = dict(original.state_dict())
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(PretrainedError, match=rf"model\.pretrained {NAME}: the weights (are|have) {message}"):
        load_pretrained(NAME, TINY, path=tmp_path / "other.safetensors")


def test_weights_may_lie_under_a_key_of_a_training_script(original, tmp_path):
    torch.save({"model": original.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pth")
    assert read_weights(tmp_path / "checkpoint.pth").keys() == original.state_dict().keys()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.backbone."])
def test_the_prefix_of_a_wrapper_is_left_out(original, tmp_path, prefix):
    state = {f"{prefix}{name}": tensor for name, tensor in original.state_dict().items()}
    torch.save({"epoch": 3, "model_state_dict": state}, tmp_path / "checkpoint.pth")
    loaded = read_weights(tmp_path / "checkpoint.pth")
    assert loaded.keys() == original.state_dict().keys()


def test_the_content_of_a_file_of_weights_decides_how_it_is_read_and_not_its_name(tmp_path):
    weights = {"a": torch.ones(3)}
    save_file(weights, tmp_path / "a.pth")
    torch.save(weights, tmp_path / "b.safetensors")
    torch.save(weights, tmp_path / "c", _use_new_zipfile_serialization=False)
    for name in ("a.pth", "b.safetensors", "c"):
        assert torch.equal(read_weights(tmp_path / name)["a"], torch.ones(3))


@pytest.mark.fault("model.pretrained_path is no file of weights", "it is refused with what it is")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable as weights"),
        (b"junk", "not readable as weights"),
        (b"<!DOCTYPE html><html>not found</html>" * 20, "not readable as weights"),
        (b"PK\3\4 a zip of something else", "not readable as weights"),
        (b"\x80\x04K\x01.", "holds more than weights|not readable as weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of Git LFS.*git lfs pull"),
        (None, "not readable as weights"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, name, content, message):
    if content is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PretrainedError, match=rf"model\.pretrained_path .*{name}.*({message})"):
        read_weights(tmp_path / name)


@pytest.mark.fault("pretrained weights that are not finite", "they are refused")
def test_weights_that_are_not_finite_are_refused(tmp_path):
    save_file({"a": torch.tensor([1.0, float("nan")])}, tmp_path / "weights.safetensors")
    with pytest.raises(PretrainedError, match="holds weights that are not finite"):
        read_weights(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.pth"])
def test_a_broken_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"x" * 50)
    with pytest.raises(PretrainedError, match=rf"model\.pretrained_path .*{name} is not readable as weights"):
        read_weights(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PretrainedError, match=r"nowhere\.pth does not exist .*working directory"):
        read_weights(tmp_path / "nowhere.pth")


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "state.pth")
    with pytest.raises(PretrainedError, match="holds more than weights"):
        read_weights(tmp_path / "state.pth")


@pytest.fixture(scope="module")
def project(tmp_path_factory, weights):
    """RGB images of 32×32 pixels, and params that start from timm's smallest ViT."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "data/clean").mkdir(parents=True)
    rng = np.random.default_rng(0)
    splits = {
        split: SplitContent(blocks=[rng.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)], labels=np.arange(12) % 4)
        for split in SPLITS
    }
    names = [f"class {k}" for k in range(4)]
    write_packed(folder / "data/clean", splits, class_names=names, class_folders=names, image_size=32, channels=3)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"] |= {"image_size": 32, "channels": 3}
    params["model"] |= {"pretrained": NAME, "pretrained_path": str(weights)} | SHAPE
    # AdamW, because Muon multiplies matrices in bfloat16, which is slow on many CPUs.
    changes = {"optimizer": "adamw", "epochs": 1, "batch_size": 4, "learning_rate": 1e-9, "warmup_epochs": 0}
    params["train"] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def without_network(folder):
    """An environment without network, and with empty caches of the hubs."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
        "no_proxy": "",
        "NO_PROXY": "",
        "HF_HOME": str(folder / "hf"),
        "TORCH_HOME": str(folder / "torch"),
    }


@pytest.mark.slow
def test_the_train_stage_starts_from_the_weights_in_a_file(project, original):
    done = run_stage("train", project)
    assert done.returncode == 0, done.stderr
    saved = load_model(project / "models/baseline")
    assert saved.model.config.image_size == 32
    assert saved.preprocessing.mean == (0.5, 0.5, 0.5)
    torch.testing.assert_close(saved.model.blocks[5].attention.qkv.weight, original.blocks[5].attn.qkv.weight)


@pytest.mark.slow
def test_without_a_network_the_error_says_what_else_to_do(tmp_path):
    vit_b = {"patch_size": 32, "d_model": 768, "num_layers": 12, "num_heads": 12, "d_mlp": 3072}
    # In a process of its own: the clients of the hubs read the environment when they are imported.
    script = f"""
import time
# The client of timm's hub waits a minute in all between its tries, each of which is refused at once.
time.sleep = lambda seconds: None
from vitprune.errors import PretrainedError
from vitprune.core.model import ViTConfig
from vitprune.pretrained import load_pretrained
for name, shape in (("{NAME}", {SHAPE}), ("torchvision/vit_b_32", {vit_b})):
    try:
        load_pretrained(name, ViTConfig(image_size=32, in_channels=3, num_classes=4, **shape))
    except PretrainedError as error:
        print(error)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=without_network(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    errors = [line for line in done.stdout.splitlines() if not line.startswith("Downloading")]
    for name, line in zip((NAME, "torchvision/vit_b_32"), errors, strict=True):
        assert line.startswith(f"model.pretrained {name}: its weights could not be downloaded (")
        assert line.endswith("or get the file by hand and set model.pretrained_path to it")
