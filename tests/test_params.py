import contextlib
import copy
import re
import time
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import parse_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from vitprune import params as params_module
from vitprune.errors import ConfigError
from vitprune.params import apply_profile, load_params, parse_params

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


PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


def leaves(content, prefix=""):
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_digits_sets_every_param_and_all_other_profiles_set_the_same():
    """Whichever profile was applied before, the next one leaves nothing of it behind."""
    keys = {profile.stem: set(leaves(yaml.safe_load(profile.read_text()))) for profile in PROFILES}
    assert keys.pop("digits") == set(leaves(yaml.safe_load((ROOT / "params.yaml").read_text())))
    assert len(set(map(frozenset, keys.values()))) == 1, keys


def test_profiles_lead_from_one_to_the_other_and_keep_comments_and_other_values(tmp_path):
    path = tmp_path / "params.yaml"
    original = (ROOT / "params.yaml").read_text()
    path.write_text(original.replace("label_smoothing: 0.1", "label_smoothing: 0.2"))
    digits, *others = sorted(PROFILES, key=lambda profile: profile.stem != "digits")
    texts = {}
    for profile in (*others, *others):
        text, _ = apply_profile(path, profile)
        path.write_text(text)
        assert load_params(path).train.label_smoothing == 0.2
        assert text.count("# ") == original.count("# ")
        assert texts.setdefault(profile.stem, text) == text
    assert load_params(path).data.source == "kaggle"
    text, changed = apply_profile(path, digits)
    assert text == original
    assert {"train.label_smoothing", "data.source"} <= set(changed)


def test_the_committed_params_are_those_of_the_digits_profile():
    text, changed = apply_profile(ROOT / "params.yaml", ROOT / "profiles" / "digits.yaml")
    assert changed == []
    assert text == (ROOT / "params.yaml").read_text()


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("acdc: {taux: 1}", r"acdc\.taux is not a parameter of .*params\.yaml"),
        ("prune: {rounds: 9}", r"prune\.rounds is not a parameter of .*; it is called prune\.timing_rounds now"),
        ("acdc: {tau: -1}", r"acdc\.tau must be greater than or equal to 0"),
        ("tau: 1", "tau is not a parameter"),
        ("- 1", "expected sections"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(tmp_path, profile, message):
    path = tmp_path / "own.yaml"
    path.write_text(profile)
    with pytest.raises(ConfigError, match=message):
        apply_profile(ROOT / "params.yaml", path)


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
        ("compute.device", "gpu", r"compute\.device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
        ("prune.timing_device", "gpu", r"prune\.timing_device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
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


def test_every_missing_parameter_is_named(content):
    for section in list(content):
        for name in list(content[section]):
            smaller = copy.deepcopy(content)
            del smaller[section][name]
            with pytest.raises(ConfigError, match=rf"params: {section}\.{name} is missing"):
                parse_params(smaller)


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


@settings(max_examples=25, deadline=None)
@given(tau=st.floats(min_value=0, max_value=1e6))
def test_any_number_python_writes_is_read_back(tmp_path_factory, tau):
    path = tmp_path_factory.getbasetemp() / "params.yaml"
    path.write_text(re.sub(r"tau: [\d.]+", f"tau: {tau}", (ROOT / "params.yaml").read_text()))
    assert load_params(path).acdc.tau == tau


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("epochs: yes", r"train\.epochs must be a valid integer, got 'yes'"),
        ("epochs: 1:30", r"train\.epochs must be a valid integer, got '1:30'"),
        ("epochs: 90\n  epochs: 80", "not valid YAML: .*duplicate key"),
    ],
)
def test_yaml_is_read_in_version_1_2(tmp_path, written, message):
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("epochs: 90", written))
    with pytest.raises(ConfigError, match=message):
        load_params(path)


def test_a_number_with_a_leading_zero_is_decimal_as_for_dvc(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("epochs: 90", "epochs: 010"))
    assert load_params(path).train.epochs == 10


def test_a_parameter_under_a_former_name_beside_the_present_one_is_left_out_with_a_warning(load, content, caplog):
    expected = load()
    content["prune"]["rounds"] = 9
    assert load() == expected
    assert "prune.rounds is called prune.timing_rounds now, which is there too; prune.rounds is not read" in caplog.text


def test_a_parameter_that_was_renamed_is_named_by_its_new_name(load, content):
    content["prune"]["rounds"] = content["prune"].pop("timing_rounds")
    with pytest.raises(ConfigError, match=r"prune\.rounds is not a known parameter; it is called prune\.timing_rounds"):
        load()


SCALARS = """
    010 0123 yes on off y 1:30 1_000 1e3 1e-3 1.e3 .5 .inf -.INF .nan ~ null NULL 2001-01-01 0o17 0x1F 0b11 +1 -0 1__0
    1e !!python/object:os.system !!python/name:os.system !!int"3" !!str !!bool !!binary !foo = << &a *a 1E5 TRUE tRue
    '1'     "\\x41" "\\ud800" | >- [1,2] {a:1} [ { ] } a#b - ? @x `x % ! 12345678901234567890123 0.1e-400 1e400
"""
DOCUMENTS = [
    "%YAML 1.1\n---\na: yes\nb: 010\n",
    "---\na: 1\n...\n",
    "---\na: 1\n---\nb: 2\n",
    "a: 1\na: 2\n",
    "b: &x {c: 1}\na:\n  <<: *x\n  d: 2\n",
    "a:\n\t- 1\n",
    "\ufeffa: 1\n",
    "a: 1\r\nb: 2\r\n",
    "a: \u2028\n",
    "1: 2\n",
    "? [1, 2]\n: 3\n",
    "a: \x07\n",
    "# nothing\n",
    'a: !!python/object/apply:os.system ["true"]\n',
]


def flat(content):
    """What is in sections, by dotted keys; text for what has no equal, as NaN."""
    return {key: repr(value) for key, value in params_module._leaves(content)}


@pytest.mark.fault(
    "YAML that programs read in different ways: 010, yes, 1:30, merges, tabs, several documents",
    "DVC reads what vitprune reads, or vitprune refuses the file",
)
@pytest.mark.parametrize("text", [*(f"a: {scalar}\n" for scalar in SCALARS.split()), *DOCUMENTS])
def test_what_vitprune_reads_is_what_dvc_reads(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode())
    content = None
    with contextlib.suppress(ConfigError):
        content = params_module._read_yaml(path, YAML(typ="safe", pure=True))
    assert content is None or flat(content) == flat(parse_yaml(text, path))


def nested_aliases(depth=9, width=9):
    """Few lines that stand for a billion values."""
    lines = ["a0: &a0 [" + ", ".join(["x"] * width) + "]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth)]
    return "\n".join(lines)


HOSTILE = {
    "aliases": nested_aliases(),
    "aliases in a list": re.sub(r"a\d: ", "- ", nested_aliases()),
    "itself": "a: &a\n  b: *a\n",
    "itself in a list": "a: &a [*a]\n",
    "braces": "{" * 5000,
    "nested sections": "a: " + "{a: " * 5000,
    "brackets": "[" * 100_000,
    "lines of brackets": "[\n" * 100_000,
    "dashes": "- " * 30_000,
    "question marks": "? " * 30_000,
    "many keys": "".join(f"k{number}: 1\n" for number in range(5000)),
    "long": "# " + "x" * 100_000_000,
    "long value": "a: " + "x" * 60_000,
    "UTF-16": "a: 1".encode("utf-16"),
    "no text": bytes(range(256)),
    "a number of many digits": "data: 0x" + "f" * 50_000,
    "a date": "data: {path: 2001-01-01}",
    "a zero": 'data: {path: "\\0"}',
    "half a character": 'data: {path: "\\ud800"}',
    "a key that is a list": "? [a]\n: b",
    "a set": "data: !!set {a}",
}


@pytest.mark.fault(
    "a params file or profile made to do harm: alias bombs, endless nesting, 100 MB",
    "it is refused in one short sentence and in seconds",
)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_at_once(tmp_path, text):
    path, own = tmp_path / "params.yaml", ROOT / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.monotonic()
    for read in (load_params, lambda path: apply_profile(path, own), lambda path: apply_profile(own, path)):
        with pytest.raises(ConfigError) as refusal:
            read(path)
        assert len(str(refusal.value)) < 20_000
        assert len(str(refusal.value).splitlines()) == 1
    assert time.monotonic() - start < 15


def values():
    """Whatever YAML can hold."""
    simple = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary(max_size=4)
    return st.recursive(
        simple,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    )


def assert_read_or_refused(path):
    for read in (load_params, lambda path: apply_profile(ROOT / "params.yaml", path)):
        with contextlib.suppress(ConfigError):
            read(path)


@pytest.mark.fault("any text as a params file or a profile", "it is read, or refused in one sentence")
@settings(max_examples=30, deadline=None)
@given(text=st.text() | st.text(alphabet="ab:-?[]{}&*!|>'\"#%@`,<~ \n\t0123.e_"))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert_read_or_refused(path)


LEAVES = sorted(leaves(yaml.safe_load((ROOT / "params.yaml").read_text())))


@pytest.mark.fault("any value for any parameter", "it is taken, or refused in one sentence")
@settings(max_examples=30, deadline=None)
@given(key=st.sampled_from(LEAVES), value=values())
def test_any_value_is_taken_or_refused(tmp_path_factory, key, value):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    change(content, key, value)
    path.write_text(yaml.safe_dump(content), "utf-8")
    assert_read_or_refused(path)


@pytest.mark.fault(
    "a profile for params in which one value stands for two by an alias", "no other value changes with it"
)
def test_a_profile_changes_no_value_that_shares_an_alias(tmp_path):
    text, path, profile = (ROOT / "params.yaml").read_text(), tmp_path / "params.yaml", tmp_path / "own.yaml"
    shared = "  distillation: &shared {weight: 0.5, temperature: 2.0, hard: false, feature_weight: 0.0}\n"
    sections = re.split(r"  distillation:.*\n(?:    .*\n)+", text)
    path.write_text(sections[0] + shared + sections[1] + "  distillation: *shared\n" + sections[2])
    assert load_params(path).train.distillation == load_params(path).finetune.distillation
    profile.write_text("finetune: {distillation: {weight: 0.9}}")
    with pytest.raises(ConfigError, match=r"has aliases \(\*\)"):
        apply_profile(path, profile)
