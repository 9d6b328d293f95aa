"""An interrupted training goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load

from tests.json_changes import REMOVED, places, replaced, value_at
from tests.training.conftest import ALL_AUGMENTATION, random_split, recipe, same_weights, tiny_model, train_tiny
from vitprune.errors import TrainingError
from vitprune.training import loop
from vitprune.training import state as state_module
from vitprune.training.progress import TrainingResult
from vitprune.training.state import State, StateFile

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


@pytest.mark.fault("SIGTERM after any step of a training", "the next run ends with the same weights, bit by bit")
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


@pytest.mark.fault("Ctrl-C in a training", "the state is saved")
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
        seen.append(content_of(state)["numbers"]["steps"]["done"])

    run(splits, changed(checkpoint_minutes=1e-9), state_path=state, on_step=on_step)
    assert seen == [3, 0, 1, 2, 3]


@pytest.mark.fault("a state of a run with other params, data or initial weights", "it is refused and stays")
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


def content_of(path):
    """The numbers and the identity in a state file."""
    return json.loads(bytes(load(path.read_bytes()[: -state_module.DIGEST_BYTES])["content"].tolist()))


def assert_refused(splits, path, message="."):
    """The state is refused before the first step, in one sentence that says what to do, and stays."""
    content = path.read_bytes()
    with pytest.raises(TrainingError, match=message) as refusal:
        run(splits, state_path=path, on_step=lambda *_: pytest.fail("went on"))
    assert str(refusal.value).startswith(f"{path}: ")
    assert str(refusal.value).endswith(f"delete {path} to start this run from the beginning")
    assert len(str(refusal.value).splitlines()) == 1
    assert path.read_bytes() == content


@pytest.mark.fault("a state file that is cut short, or something else", "it is named, and stays")
@pytest.mark.parametrize("content", [b"", b"nonsense", b"x" * 5000, "half"])
def test_a_broken_state_is_named(splits, state, content):
    state.write_bytes(state.read_bytes()[:3000] if content == "half" else content)
    assert_refused(splits, state, "not the state of a training run, or not as it was saved")


@pytest.mark.fault("a flipped bit anywhere in a state file", "it is noticed before the first step")
def test_flipped_bits_are_noticed(splits, state):
    content, rng = state.read_bytes(), random.Random(0)
    places = [0, 7, 8, len(content) - 1, *(rng.randrange(len(content)) for _ in range(40))]
    for place in places:
        changed_content = bytearray(content)
        changed_content[place] ^= 1 << rng.randrange(8)
        state.write_bytes(changed_content)
        assert_refused(splits, state)


@pytest.mark.fault("a state that another version of vitprune saved", "it is refused and stays")
def test_the_state_of_another_version_is_refused(splits, state, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr(state_module, "FORMAT", 99)
        assert_refused(splits, state, r"another version of vitprune \(format 4\)")
    torch.save({"format": 3, "identity": {}, "state": {}}, state)
    assert_refused(splits, state, "an earlier version of vitprune")


def test_a_state_without_its_parts_is_refused_even_if_it_is_whole(splits, state):
    payload = state.read_bytes()[: 8 + 2]
    state.write_bytes(payload + hashlib.sha256(payload).digest())
    assert_refused(splits, state, "not the state of a training run")


def variants_of_tensors(tensors):
    """The names of all tensors with one of them changed, and what was changed."""
    for name, tensor in tensors.items():
        others = {other: value for other, value in tensors.items() if other != name}
        yield f"without {name}", others
        yield f"{name} by another name", others | {f"{name}.x": tensor}
        yield f"{name} longer", others | {name: torch.cat([tensor.flatten(), tensor.flatten()[:1]])}
        yield f"{name} as one number", others | {name: torch.tensor([[1.0]])}
        yield (
            f"{name} in another format",
            others | {name: tensor.half() if tensor.is_floating_point() else tensor.int()},
        )
        if tensor.is_floating_point():
            yield f"{name} not finite", others | {name: torch.full_like(tensor, math.nan)}
            yield f"{name} infinite", others | {name: torch.full_like(tensor, math.inf)}
    yield "a tensor too much", tensors | {"more": torch.zeros(1)}
    yield "a best weight too much", tensors | {"best.more": torch.zeros(1)}
    yield "no optimiser", {name: value for name, value in tensors.items() if not name.startswith("optimiser")}
    yield "no tensors", {}


def variants_of_numbers(numbers):
    """The numbers with one of them changed, and what was changed."""

    for place in filter(None, places(numbers)):
        old = value_at(numbers, place)
        for new in (None, "text", -1, -1.5, 10**9, True, [], {}, [[1]], {"more": 1}, REMOVED):
            if old == new and type(old) is type(new):
                continue
            if new == {"more": 1} and isinstance(old, dict):
                new = old | new
            yield f"{place} becomes {new!r}", replaced(numbers, place, new)


SHOWN = ("train_loss", "train_accuracy", "learning_rate", "seconds", "images_per_second", "mean_abs", "max_abs", "loss")
"""Numbers of which any finite value may be right: they are shown, or added up to be shown."""


@pytest.mark.fault(
    "a state with a key, type, shape or number that this training cannot come to", "it is refused before the first step"
)
@pytest.mark.parametrize("step", [3, STEPS + 1])
def test_whatever_changes_in_the_structure_of_a_state_is_refused(splits, tmp_path, step):
    path = tmp_path / "state.pt"
    with pytest.raises(SystemExit):
        run(splits, state_path=path, on_step=stop_after(step, signal.SIGTERM))
    file = StateFile(path, content_of(path)["identity"], 5)
    original = file.load()
    states = [(what, State(tensors=t, numbers=original.numbers)) for what, t in variants_of_tensors(original.tensors)]
    states += [(what, State(tensors=original.tensors, numbers=n)) for what, n in variants_of_numbers(original.numbers)]
    said = {}
    for what, changed_state in random.Random(0).sample(states, 260):
        file.save(changed_state)
        with pytest.raises((TrainingError, Stopped)) as end:
            run(splits, state_path=path, on_step=stop_at_once)
        said[what] = str(end.value)
    refused = {what for what, message in said.items() if "not a state that this training comes to" in message}
    assert len(refused) > 200
    went_on = {what for what in said.keys() - refused if not any(f"{name!r}) becomes" in what for name in SHOWN)}
    assert {what: said[what] for what in went_on} == {}


class Stopped(Exception):
    """The run went on."""


def stop_at_once(*_):
    raise Stopped
