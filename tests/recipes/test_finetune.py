"""Fine-tuning in rounds: recover, prune on, recover; interrupted at any point, it goes on with the same shape."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from tests.pruning.speeds import take_speeds_from_shapes
from tests.training.conftest import NO_AUGMENTATION, PREPROCESSING, random_split, tiny_model
from vitprune.core.model import SavedModel
from vitprune.core.packed import PackedData
from vitprune.errors import ConfigError
from vitprune.params import parse_params
from vitprune.pruning.cutting import prune_to_target
from vitprune.recipes import finetune
from vitprune.recipes.finetune import Recovery

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c", "d")
DIGITS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())


def params_with(**finetune):
    content = DIGITS | {
        "prune": DIGITS["prune"]
        | {
            "target_speedup": 1.8,
            "group_size": 4,
            "num_images": 16,
            "num_fold_images": 16,
        },
        "finetune": DIGITS["finetune"] | {"epochs": 4, "rounds": 2, "warmup_epochs": 0, "scope": "all"} | finetune,
    }
    content["train"] = DIGITS["train"] | {"batch_size": 16, "augment": NO_AUGMENTATION.model_dump()}
    return parse_params(content)


@pytest.fixture(scope="module", autouse=True)
def _speeds():
    with pytest.MonkeyPatch.context() as monkeypatch:
        take_speeds_from_shapes(monkeypatch)
        yield


@pytest.fixture(scope="module")
def start():
    """A baseline, its first pruned model, data, and what was measured for the pruning."""
    model = tiny_model().eval()
    baseline = SavedModel(model=model, preprocessing=PREPROCESSING, class_names=CLASSES)
    packed = PackedData(
        train=random_split(48),
        val=random_split(16, 1),
        test=random_split(16, 2),
        class_names=CLASSES,
        mean=(0.5,),
        std=(0.3,),
    )
    params = params_with()
    small = prune_to_target(packed, baseline, params.prune.of_round(1, 2), CPU)
    return baseline, small.saved, packed, small.measurements


def recovery(start, state, params=None):
    _, _, packed, known = start
    params = params or params_with()
    return Recovery(
        packed=packed,
        train=params.train,
        finetune=params.finetune,
        prune=params.prune,
        compute=params.compute,
        device=CPU,
        state=state,
        known=known,
    )


def recovered(start, state, params=None):
    baseline, pruned, *_ = start
    # The caller's model is trained in place.
    copy = replace(pruned, model=_copy(pruned.model))
    return recovery(start, state, params).recover(copy, baseline)


def _copy(model):
    twin = type(model)(model.config)
    twin.load_state_dict(model.state_dict())
    return twin.eval()


def weights(model):
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_each_round_prunes_on_and_the_last_reaches_the_target(start, tmp_path):
    assert params_with().prune.of_round(1, 2).target_speedup == pytest.approx(1.8**0.5)
    assert params_with().prune.of_round(2, 2).target_speedup == pytest.approx(1.8)
    saved, result, figures = recovered(start, tmp_path / "state.pt")
    assert parameters(saved.model) < parameters(start[1].model) < parameters(start[0].model)
    assert [record.epoch for record in result.history] == [1, 2, 3, 4]
    assert result.best_epoch in (3, 4)
    assert len(figures) == 1
    assert figures[0]["measured_speedup"] >= 1.8


@pytest.mark.fault("a kill between rounds of fine-tuning", "the next run goes on with the same shape")
def test_a_call_that_ended_early_goes_on_with_the_same_shape(start, tmp_path, monkeypatch):
    state = tmp_path / "state.pt"
    whole = recovered(start, state)[0]
    # All of its files are there still: each round is over at once, and nothing is searched again.
    monkeypatch.setattr(finetune, "prune_to_target", lambda *_, **__: pytest.fail("searched again"))
    again = recovered(start, state)[0]
    assert again.model.config == whole.model.config
    assert torch.equal(weights(again.model), weights(whole.model))
    assert set(tmp_path.iterdir()) <= set(recovery(start, state).leftovers())


def test_a_kept_round_of_other_options_is_pruned_again(start, tmp_path):
    state = tmp_path / "state.pt"
    recovered(start, state)
    folder = next(path for path in recovery(start, state).leftovers() if path.is_dir())
    other = params_with()
    other = other.model_copy(update={"prune": other.prune.model_copy(update={"group_size": 8})})
    before = (folder / "round.json").read_text()
    for left in recovery(start, state).leftovers():
        if left.is_file():
            left.unlink()
    recovered(start, state, other)
    assert (folder / "round.json").read_text() != before


def test_one_round_is_plain_fine_tuning(start, tmp_path):
    saved, result, figures = recovered(start, tmp_path / "state.pt", params_with(rounds=1))
    assert saved.model.config == start[1].model.config
    assert len(result.history) == 4
    assert figures == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 2, "warmup_epochs": 2}, "warmup_epochs .* less than the epochs of a round"),
        ({"rounds": 5}, "less than the epochs of a round"),
        ({"rounds": 0}, "finetune.rounds"),
        ({"scope": "some"}, "finetune.scope"),
    ],
)
def test_rounds_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        params_with(**changes)


def test_rounds_need_a_speed_to_go_to():
    content = params_with().model_dump(mode="json")
    content["prune"]["target_speedup"] = None
    with pytest.raises(ConfigError, match=r"finetune.rounds \(2\) needs a speed .* prune.target_speedup"):
        parse_params(content)
