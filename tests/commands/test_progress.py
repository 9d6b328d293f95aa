"""What is shown of long work where there is no terminal, as under ``dvc repro > log`` or in a batch job."""

import itertools
import logging
import re

import pytest

from vitprune.circuit.engine.phase import SearchProgress
from vitprune.commands import progress as progress_module
from vitprune.commands.progress import duration, log_training, progress, search_progress, training_progress
from vitprune.training.history import EpochRecord
from vitprune.training.progress import TrainingResult, ValScore


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="vitprune")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def tick(monkeypatch):
    """Let so many seconds pass at each look at the clock."""

    def start(seconds):
        clock = itertools.count()
        monkeypatch.setattr(progress_module.time, "monotonic", lambda: seconds * next(clock))

    return start


def record(epoch):
    return EpochRecord(
        epoch=epoch,
        train_loss=0.5,
        train_accuracy=0.8,
        val_loss=0.4,
        val_accuracy=0.9,
        learning_rate=0.1,
        seconds=2.0,
        images_per_second=1500.0,
    )


def test_long_work_shows_a_line_every_ten_seconds_with_rate_and_time_left(lines, tick):
    tick(4)
    with progress("decode", "images") as on_progress:
        for done in range(0, 900, 100):
            on_progress(done, 2000)
    assert lines() == [
        "decode: 200 of 2,000 images, 25 images/s, about 1:12 left",
        "decode: 500 of 2,000 images, 25 images/s, about 1:00 left",
        "decode: 800 of 2,000 images, 25 images/s, about 0:48 left",
    ]


def test_short_work_shows_nothing(lines):
    with training_progress("train") as training, progress("score", "images") as on_progress:
        for done in range(1, 10):
            training.on_step(done, 9)
            training.on_epoch(record(done))
            on_progress(done, 9)
    assert lines() == []


def test_of_many_epochs_only_every_so_often_one_is_shown(lines, tick):
    tick(0.5)
    with training_progress("train") as training:
        for epoch in range(1, 91):
            training.on_step(10 * epoch, 900)
            training.on_epoch(record(epoch))
    assert len(lines()) == 9
    assert all(
        re.search(r"epoch \d+: loss 0\.5000, validation loss 0\.4000, accuracy 90\.00 %", line) for line in lines()
    )


def test_work_that_goes_on_where_it_stopped_is_not_faster_for_that(lines, tick):
    tick(11)
    with progress("train", "steps") as on_progress:
        for done in (500, 511, 522):
            on_progress(done, 1000)
    assert lines()[-1] == "train: 522 of 1,000 steps, 1.0 s each, about 7:58 left"


def test_a_search_says_what_it_has_removed_and_estimates_for_itself(lines, tick):
    tick(11)
    with search_progress("acdc") as on_progress:
        on_progress(SearchProgress(decided=3, total=10, removed=2, damage=0.5, seconds_left=3700))
    assert lines() == ["acdc: 3 of 10 decisions, about 1:01:40 left, 2 removed, metric 0.50000"]


def test_durations_have_hours_where_they_need_them():
    assert [duration(seconds) for seconds in (0.4, 59.6, 3599, 3723)] == ["0:00", "1:00", "59:59", "1:02:03"]


def test_the_end_of_a_training_names_the_model_and_its_best_epoch(lines):
    best = ValScore(accuracy=0.9, loss=0.4)
    for epoch, said in ((2, "epoch 2"), (0, "as it was before")):
        history = (record(1), record(2))
        log_training("baseline", TrainingResult(history=history, gradient_flow=(), best_epoch=epoch, best=best))
        assert lines()[-1] == (
            f"baseline: trained 2 epochs in 0:04; best on validation: {said}, accuracy 90.00 %, loss 0.4000"
        )
