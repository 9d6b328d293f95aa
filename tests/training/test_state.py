"""An interrupted training goes on where it stopped."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch

from tests.training.conftest import ALL_AUGMENTATION, random_split, recipe, tiny_model, train_tiny
from vitprune.errors import TrainingError
from vitprune.training.loop import TrainingResult

RECIPE = recipe(augment=ALL_AUGMENTATION, ema_decay=0.9)
EPOCHS = 2
STEPS = 4  # of an epoch of 33 images, 8 at a time, where one image alone is no batch


def run(splits, model=None, **changes):
    """A run with everything random in it; returns the model and the result."""
    model = model or tiny_model(dropout=0.1, drop_path=0.2)
    result = train_tiny(model, *splits, **{"epochs": EPOCHS, "recipe": RECIPE, "warmup_epochs": 0.5} | changes)
    return model, result


def stop_after(step: int, number: signal.Signals):
    """A callback that sends this process a signal after a step."""

    def on_step(done: int, total: int) -> None:
        assert total == EPOCHS * STEPS
        if done == step:
            os.kill(os.getpid(), number)

    return on_step


def without_times(result: TrainingResult):
    return [replace(record, seconds=0.0, images_per_second=0.0) for record in result.history], result.gradient_flow


@pytest.mark.parametrize("step", range(1, EPOCHS * STEPS + 1))
def test_stopped_after_any_step_it_ends_with_the_same_weights(splits, tmp_path, step):
    expected, undisturbed = run(splits)
    state = tmp_path / "state.pt"
    with pytest.raises(SystemExit) as stop:
        run(splits, state_path=state, on_step=stop_after(step, signal.SIGTERM))
    assert stop.value.code == 128 + signal.SIGTERM
    model, result = run(splits, state_path=state)
    assert without_times(result) == without_times(undisturbed)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in expected.state_dict().items())


def test_a_finished_run_is_not_run_again(splits, tmp_path):
    state, steps = tmp_path / "state.pt", []
    first, _ = run(splits, state_path=state)
    second, result = run(splits, state_path=state, on_step=lambda done, _: steps.append(done))
    assert steps == []
    assert len(result.history) == EPOCHS
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_an_interrupt_from_the_keyboard_is_one(splits, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(splits, state_path=tmp_path / "state.pt", on_step=stop_after(3, signal.SIGINT))
    assert (tmp_path / "state.pt").is_file()
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_short_interval_saves_between_epochs(splits, tmp_path):
    state, seen = tmp_path / "state.pt", []

    def on_step(*_: int) -> None:
        seen.append(torch.load(state, weights_only=True)["state"]["steps"]["done"] if state.exists() else None)

    run(splits, state_path=state, on_step=on_step, recipe=recipe(checkpoint_minutes=1e-9))
    assert seen == [None, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 1}, "seed 0, now 1"),
        ({"learning_rate": 0.001}, "learning_rate 0.003, now 0.001"),
        ({"recipe": recipe(augment=ALL_AUGMENTATION)}, "train.ema_decay 0.9, now None"),
        ({"model": tiny_model(1, dropout=0.1, drop_path=0.2)}, "initial weights"),
        ({"model": tiny_model(d_mlp=16)}, "model ViTConfig"),
    ],
)
def test_the_state_of_another_run_is_refused_and_stays(splits, tmp_path, changes, name):
    state = tmp_path / "state.pt"
    with pytest.raises(SystemExit):
        run(splits, state_path=state, on_step=stop_after(3, signal.SIGTERM))
    content = state.read_bytes()
    with pytest.raises(TrainingError, match="another configuration") as refusal:
        run(splits, state_path=state, **changes)
    assert name in str(refusal.value)
    assert state.read_bytes() == content


def test_the_state_of_other_images_is_refused(splits, tmp_path):
    run(splits, state_path=tmp_path / "state.pt")
    with pytest.raises(TrainingError, match="training images"):
        run((random_split(33, seed=7), splits[1]), state_path=tmp_path / "state.pt")


@pytest.mark.parametrize("content", [b"", b"nonsense", "half"])
def test_a_broken_state_is_named(splits, tmp_path, content):
    state = tmp_path / "state.pt"
    run(splits, state_path=state)
    state.write_bytes(state.read_bytes()[:3000] if content == "half" else content)
    with pytest.raises(TrainingError, match="not readable as the state of a training run"):
        run(splits, state_path=state)


def test_how_often_it_is_saved_may_change(splits, tmp_path):
    run(splits, state_path=tmp_path / "state.pt")
    run(splits, state_path=tmp_path / "state.pt", recipe=RECIPE.model_copy(update={"checkpoint_minutes": 1.0}))
