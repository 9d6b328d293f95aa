"""An interrupted training goes on where it stopped."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch

from tests.training.conftest import ALL_AUGMENTATION, random_split, recipe, same_weights, tiny_model, train_tiny
from vitprune.errors import TrainingError
from vitprune.training import loop
from vitprune.training.loop import TrainingResult

EPOCHS = 2
STEPS = 4  # of an epoch of 33 images, 8 at a time, where one image alone is no batch
OPTIONS = recipe(epochs=EPOCHS, warmup_epochs=0.5, optimizer="muon", augment=ALL_AUGMENTATION, ema_decay=0.9)


def run(splits, options=OPTIONS, model=None, **changes):
    """A run with everything random in it; returns the model and the result."""
    model = model or tiny_model(dropout=0.1, drop_path=0.2)
    return model, train_tiny(model, *splits, options, **changes)


def stop_after(step: int, number: signal.Signals):
    """A callback that sends this process a signal after a step."""

    def on_step(done: int, total: int) -> None:
        assert total == EPOCHS * STEPS
        if done == step:
            os.kill(os.getpid(), number)

    return on_step


def changed(**changes):
    return OPTIONS.model_copy(update=changes)


def without_times(result: TrainingResult):
    return [replace(record, seconds=0.0, images_per_second=0.0) for record in result.history], result.gradient_flow


@pytest.fixture(scope="module")
def undisturbed(splits):
    return run(splits)


@pytest.fixture(scope="module")
def stopped(splits, tmp_path_factory) -> bytes:
    """The state of a run that was stopped in its first epoch."""
    path = tmp_path_factory.mktemp("stopped") / "state.pt"
    with pytest.raises(SystemExit):
        run(splits, state_path=path, on_step=stop_after(3, signal.SIGTERM))
    return path.read_bytes()


@pytest.fixture
def state(stopped, tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(stopped)
    return path


@pytest.mark.parametrize("step", [1, STEPS, STEPS + 2, EPOCHS * STEPS])
def test_stopped_after_any_step_it_ends_with_the_same_weights(splits, undisturbed, tmp_path, step):
    state, steps = tmp_path / "state.pt", []
    with pytest.raises(SystemExit) as stop:
        run(splits, state_path=state, on_step=stop_after(step, signal.SIGTERM))
    assert stop.value.code == 128 + signal.SIGTERM
    model, result = run(splits, state_path=state, on_step=lambda done, _: steps.append(done))
    assert steps == list(range(step + 1, EPOCHS * STEPS + 1))
    assert without_times(result) == without_times(undisturbed[1])
    assert same_weights(model, undisturbed[0])


def test_an_interrupt_from_the_keyboard_stops_it_too(splits, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(splits, state_path=tmp_path / "state.pt", on_step=stop_after(3, signal.SIGINT))
    assert (tmp_path / "state.pt").is_file()
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_signal_that_comes_while_the_ranks_agree_is_not_lost(splits, tmp_path, monkeypatch):
    """Each rank's own signal may come between its question to the others and their answer, which is then no."""
    asked = []

    def largest(value: int) -> int:
        asked.append(value)
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return value

    monkeypatch.setattr(loop, "largest", largest)
    with pytest.raises(SystemExit):
        run(splits, state_path=tmp_path / "state.pt")
    assert asked == [0, 0, 0, signal.SIGTERM]


def test_a_short_interval_saves_between_epochs_and_may_differ_when_a_run_goes_on(splits, state):
    seen = []

    def on_step(*_: int) -> None:
        seen.append(torch.load(state, weights_only=True)["state"]["steps"]["done"])

    run(splits, changed(checkpoint_minutes=1e-9), state_path=state, on_step=on_step)
    assert seen == [3, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 1}, "seed 0, now 1"),
        ({"precision": "bf16"}, "precision fp32, now bf16"),
        ({"options": changed(learning_rate=0.001)}, "learning_rate 0.003, now 0.001"),
        ({"options": changed(ema_decay=None)}, "ema_decay 0.9, now None"),
        ({"model": tiny_model(1, dropout=0.1, drop_path=0.2)}, "initial weights"),
        ({"model": tiny_model(d_mlp=16)}, "model ViTConfig"),
        ({"splits": (random_split(33, seed=7), random_split(20, seed=2))}, "training images"),
        ({"splits": (random_split(33, seed=1), random_split(20, seed=7))}, "validation images"),
    ],
)
def test_the_state_of_another_run_is_refused_and_stays(splits, state, changes, name):
    content = state.read_bytes()
    with pytest.raises(TrainingError, match="another configuration") as refusal:
        run(**{"splits": splits, "state_path": state} | changes)
    assert name in str(refusal.value)
    assert state.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"nonsense", "half"])
def test_a_broken_state_is_named(splits, state, content):
    state.write_bytes(state.read_bytes()[:3000] if content == "half" else content)
    with pytest.raises(TrainingError, match="not readable as the state of a training run"):
        run(splits, state_path=state)
