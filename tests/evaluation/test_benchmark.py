import pytest
import torch
from torch import nn

from tests.circuit.oracle import random_model
from vitprune.core.compute import stopwatch
from vitprune.core.model import Preprocessing, SavedModel, save_model
from vitprune.evaluation.benchmark import Entry, benchmark_machine, benchmark_table, load_entries, run_benchmark

CPU, OTHER = torch.device("cpu"), torch.device("meta")


class Noted(nn.Module):
    """Notes each call with the device of its images."""

    def __init__(self, name, events):
        super().__init__()
        self.name, self.events = name, events

    def forward(self, images):
        self.events.append((self.name, images.device.type))
        return images


@pytest.fixture
def entries(monkeypatch):
    """A file that runs on the CPU first, and after it a model on another device."""
    events = []
    monkeypatch.setattr(stopwatch, "synchronise", lambda device: events.append(("wait", device.type)))
    names = {"a.onnx": CPU, "model": OTHER}
    return [Entry(name, Noted(name, events), (1, 4, 4), device) for name, device in names.items()], events


def test_every_entry_is_waited_for_on_its_own_device(entries):
    entries, events = entries
    run_benchmark(entries, [2], warmup=1, rounds=5)
    of_a_file = [("wait", "cpu"), ("a.onnx", "cpu"), ("wait", "cpu")]
    of_a_model = [("wait", "meta"), ("model", "meta"), ("wait", "meta")]
    assert events[-30:] == 5 * (of_a_file + of_a_model)


def test_the_table_has_a_row_for_each_entry_and_batch_size_and_names_the_machine(entries, monkeypatch):
    entries, _ = entries
    times = run_benchmark(entries, [1, 2], warmup=1, rounds=5)
    names = {"cpu": "a CPU", "meta": "a GPU"}
    machine = {"threads": 2, "torch": "2.15", "python": "3.12"}
    monkeypatch.setattr(
        "vitprune.evaluation.benchmark.describe_machine", lambda device: machine | {"device": names[device.type]}
    )
    assert benchmark_machine(entries)["device"] == "a CPU and a GPU"
    # The device of the models is not named where none ran on it.
    assert benchmark_machine(entries[:1])["device"] == "a CPU"
    table = benchmark_table(times, benchmark_machine(entries), rounds=5)
    assert [row[:2] for row in table.rows] == [("a.onnx", "1"), ("a.onnx", "2"), ("model", "1"), ("model", "2")]
    assert {len(row) for row in table.rows} == {len(table.headers)}
    for part in ("5 rounds", "a CPU and a GPU, 2 threads", "PyTorch 2.15"):
        assert part in table.caption


def test_a_model_that_is_given_twice_is_timed_twice(tmp_path):
    model = random_model(1, dtype=torch.float32)
    saved = SavedModel(model=model, preprocessing=Preprocessing(mean=(0.4,), std=(0.3,)), class_names=("a", "b", "c"))
    save_model(tmp_path / "a", saved)
    path = tmp_path / "a"
    entries = load_entries([path] * 3, CPU, simplify=True, compiled=False, onnx=False, threads=1)
    names = ["{}", "{}, simplified", "{} (2)", "{}, simplified (2)", "{} (3)", "{}, simplified (3)"]
    assert [entry.name for entry in entries] == [name.format(path) for name in names]
    assert list(run_benchmark(entries, [2], warmup=1, rounds=5)) == [entry.name for entry in entries]
    images = torch.rand(2, 1, 4, 4)
    for entry in entries:
        expected = saved.model(saved.preprocessing.normalise(images))
        torch.testing.assert_close(entry.model(images), expected, rtol=1e-4, atol=1e-5)
