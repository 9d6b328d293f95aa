from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vitprune.config import load_params
from vitprune.errors import ConfigError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def content():
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def change(content, key, value):
    *sections, name = key.split(".")
    for section in sections:
        content = content[section]
    content[name] = value


@pytest.fixture
def load(tmp_path, content):
    def load(**changes):
        for key, value in changes.items():
            change(content, key.replace("__", "."), value)
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_params(path)

    return load


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_is_complete_and_valid(profile):
    load_params(profile)


def test_the_default_params_are_the_digits_profile():
    assert load_params(ROOT / "params.yaml") == load_params(ROOT / "profiles" / "digits.yaml")


def test_params_cannot_be_changed(load):
    with pytest.raises(ValueError, match="frozen"):
        load().acdc.tau = 0.5


@pytest.mark.parametrize(
    ("written", "value"), [("1e-05", 1e-5), ("1E-3", 1e-3), ("0.5", 0.5), ("1", 1.0), ("2e+1", 20.0)]
)
def test_numbers_are_read_as_dvc_writes_them(tmp_path, written, value):
    text = (ROOT / "params.yaml").read_text()
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("tau: 0.006", f"tau: {written}"))
    assert load_params(path).acdc.tau == value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("acdc.tau", -0.1, r"acdc\.tau must be greater than or equal to 0, got -0\.1"),
        ("acdc.tau", float("nan"), r"acdc\.tau must be a finite number, got nan"),
        ("acdc.tau", float("inf"), r"acdc\.tau must be a finite number, got inf"),
        ("acdc.tau", "small", r"acdc\.tau must be a valid number, got 'small'"),
        ("acdc.tau", True, r"acdc\.tau must be a valid number, got True"),
        ("acdc.tau", None, r"acdc\.tau must be a valid number, got None"),
        ("acdc.taux", 1, r"acdc\.taux is not a known parameter"),
        ("model.num_heads", 3, r"model\.d_model \(64\) is not divisible by model\.num_heads \(3\)"),
        ("model.patch_size", 3, r"data\.image_size \(8\) is not divisible by model\.patch_size \(3\)"),
        ("model.pooling", "max", r"model\.pooling must be 'class' or 'mean', got 'max'"),
        ("model.positions", "rotary", r"model\.positions must be 'learned' or 'sincos', got 'rotary'"),
        ("model.patch_embedding", "mlp", r"model\.patch_embedding must be 'linear', 'conv' or 'shifted', got 'mlp'"),
        ("model.num_layers", 2.5, r"model\.num_layers must be a valid integer, got 2\.5"),
        ("model.num_layers", "4", r"model\.num_layers must be a valid integer, got '4'"),
        (
            "model.pretrained",
            "vit_b_16",
            r"model\.pretrained must be null, timm/NAME or torchvision/NAME, .*'vit_b_16'",
        ),
        ("model.pretrained", 16, r"model\.pretrained must be a valid string, got 16"),
        ("model.pretrained_path", "w.pth", r"model\.pretrained is missing: with model\.pretrained_path \(w\.pth\)"),
        ("data.source", "imagenet", r"data\.source must be 'digits', .*, got 'imagenet'"),
        ("data.source", "folder", r"data\.path is missing"),
        ("acdc.granularity", "layer", r"acdc\.granularity must be 'edge', 'node' or 'node-edge', got 'layer'"),
        ("acdc.mlp_groups", 1000, r"acdc\.mlp_groups \(1000\) is more than model\.d_mlp"),
        ("clean.val_fraction", 0.9, r"clean\.val_fraction \(0\.9\) and clean\.test_fraction \(0\.25\) leave nothing"),
        ("train.warmup_epochs", 1000, r"train\.warmup_epochs \(1000.*\) must be less than train\.epochs"),
        ("train.augment.erasing", 2, r"train\.augment\.erasing must be less than or equal to 1, got 2"),
        ("evaluate.timing_batch_sizes", [], r"evaluate\.timing_batch_sizes"),
        ("evaluate.timing_rounds", 2, r"evaluate\.timing_rounds must be greater than or equal to 5, got 2"),
        ("train", 3, r"train must be an object, got 3"),
        ("compute.seed", 2**64, r"compute\.seed must be less than 4294967296"),
        ("compute.threads", 10**12, r"compute\.threads must be less than or equal to 1024"),
    ],
)
def test_an_impossible_value_is_refused_with_its_key(load, key, value, message):
    with pytest.raises(ConfigError, match=message):
        load(**{key.replace(".", "__"): value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"positions": "sincos", "d_model": 66, "num_heads": 3},
            r"model\.d_model \(66\) is not divisible by 4, as model\.positions sincos need it",
        ),
        (
            {"patch_embedding": "shifted", "patch_size": 1},
            r"model\.patch_size 1 has no half to shift by: model\.patch_embedding shifted needs at least 2",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_their_keys(load, changes, message):
    with pytest.raises(ConfigError, match=message):
        load(**{f"model__{key}": value for key, value in changes.items()})


def test_every_missing_parameter_is_named(tmp_path, content):
    for section in list(content):
        for name in list(content[section]):
            smaller = yaml.safe_load(yaml.safe_dump(content))
            del smaller[section][name]
            path = tmp_path / "params.yaml"
            path.write_text(yaml.safe_dump(smaller))
            with pytest.raises(ConfigError, match=rf"params\.yaml: {section}\.{name} is missing"):
                load_params(path)


def test_a_missing_section_is_named(tmp_path, content):
    del content["finetune"]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="finetune is missing"):
        load_params(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected sections"),
        ("- 1", "expected sections"),
        ("a: [", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_params_file_is_refused(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_params(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load_params(tmp_path / "nowhere.yaml")


@given(tau=st.floats(min_value=0, max_value=1e6))
def test_any_number_python_writes_is_read_back(tau):
    from vitprune.config import _Loader

    assert yaml.load(f"tau: {tau}", Loader=_Loader)["tau"] == tau
