"""What is shown where there is no terminal, as under ``dvc repro > log`` or in a batch job."""

import logging

import numpy as np
import pytest
import torch

from vitprune.commands import terminal
from vitprune.commands.terminal import progress, training_progress


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="vitprune")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_long_epoch_shows_its_steps_now_and_then(lines, monkeypatch):
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    with training_progress("train") as training:
        for done in range(1, 10):
            training.on_step(done, 40)
    # Looked at every 25 seconds, and once more for each line.
    assert lines() == ["train: 3 of 40 steps", "train: 6 of 40 steps", "train: 9 of 40 steps"]


def test_a_short_run_shows_no_steps(lines):
    with training_progress("train") as training, progress("score") as on_progress:
        for done in range(1, 10):
            training.on_step(done, 9)
            on_progress(done, 9)
    assert lines() == []


@pytest.mark.fault("memory runs out, of a CPU or a GPU", "the params that bound it are named")
@pytest.mark.parametrize(
    "use",
    [
        lambda: torch.empty(2**50),
        lambda: np.empty(2**50),
        lambda: bytearray(2**60),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")),
    ],
)
def test_running_out_of_memory_names_the_params_that_bound_it(capsys, use):
    with pytest.raises(SystemExit, match="1"), terminal.report_errors():
        use()
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for name in ("acdc.batch_size", "prune.batch_size", "evaluate.batch_size"):
        assert name in message
