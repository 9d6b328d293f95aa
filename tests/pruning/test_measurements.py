"""Kept times are used as they were written, or not at all."""

import json
import math
import random

import pytest
import torch

from tests.circuit.oracle import random_model
from tests.json_changes import REMOVED, places, replaced
from vitprune.core.compute.stopwatch import TimingProtocol
from vitprune.pruning import measurements
from vitprune.pruning.latency import table_key
from vitprune.pruning.measurements import Measurements, SpeedMeter, measure_table

PROTOCOL = TimingProtocol(device=torch.device("cpu"), batch_size=1, warmup=1, rounds=5)


@pytest.fixture(scope="module")
def known():
    config = random_model().config
    table = measure_table(config, 4, PROTOCOL)
    key = table_key(config, 4, PROTOCOL) | {"warmup": PROTOCOL.warmup}
    return Measurements(key=key, table=table, speedups={"[[2, 3]]": [1.5, 1.6], "[[1, 1]]": [2.25]})


@pytest.fixture
def path(known, tmp_path):
    known.write(tmp_path / "latency.json")
    return tmp_path / "latency.json"


def test_what_is_written_is_read(path, known, caplog):
    caplog.set_level("INFO")
    assert Measurements.read(path) == known
    assert Measurements.read(path.with_name("nowhere.json")) == Measurements()
    assert caplog.text == ""


def assert_not_used(path, caplog):
    caplog.clear()
    assert Measurements.read(path) == Measurements()
    assert f"{path}: not used, so that times are measured anew" in caplog.text


@pytest.mark.fault("kept times that are cut short, flipped, or of another version", "all is measured anew, and said")
def test_a_damaged_file_is_not_used(path, caplog):
    caplog.set_level("INFO")
    content, rng = path.read_bytes(), random.Random(0)
    spaces = b" \n"
    for _ in range(60):
        place = rng.randrange(len(content) - 2)
        path.write_bytes(content[:place])
        assert_not_used(path, caplog)
        if content[place] in spaces:
            continue
        flipped = bytearray(content)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        assert_not_used(path, caplog)
    for other in ("", "null", "[]", "3", '{"format": 3}', json.dumps(json.loads(content) | {"format": 2})):
        path.write_text(other)
        assert_not_used(path, caplog)


@pytest.mark.fault("kept times of wrong types, missing, negative, zero or not finite", "all is measured anew, and said")
def test_what_no_measurement_gives_is_not_used_even_if_its_checksum_is_right(path, caplog):
    caplog.set_level("INFO")
    whole = json.loads(path.read_text())
    refused = 0
    for place in [*places(whole["measurements"])]:
        # What else the key may hold is compared with that of the run.
        if not place or place[0] == "key" or "measured_on" in place:
            continue
        for new in (None, "text", -1.0, math.nan, math.inf, True, [], {"more": 1}, [[1]], REMOVED):
            # There may be no table at all, and fewer speed-ups.
            if (place, new) == (("table",), None) or (place[0] == "speedups" and (new == [] or new is REMOVED)):
                continue
            content = replaced(whole["measurements"], place, new)
            path.write_text(json.dumps(whole | {"measurements": content, "sha256": measurements._digest(content)}))
            assert_not_used(path, caplog)
            refused += 1
    assert refused > 200


@pytest.mark.fault("kept times of a speed-up of zero, or a table of another machine", "all is measured anew, and said")
def test_impossible_times_are_not_used(path, caplog):
    caplog.set_level("INFO")
    whole = json.loads(path.read_text())
    for change in (
        {"speedups": {"a": [0.0]}},
        {"speedups": {"a": [-1.0]}},
        {"key": whole["measurements"]["key"] | {"batch_size": 7}},
    ):
        content = whole["measurements"] | change
        path.write_text(json.dumps(whole | {"measurements": content, "sha256": measurements._digest(content)}))
        assert_not_used(path, caplog)


@pytest.mark.fault("kept times of another machine, shape or batch size", "all is measured anew, and said")
def test_times_of_another_shape_are_not_used(known, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(measurements, "measured_speedup", lambda *_: 9.0)
    larger = random_model(num_layers=3, num_heads=4)
    assert SpeedMeter(larger, 4, PROTOCOL, known).speedup(larger) == 9.0
    assert "times are measured anew: those that were kept are for another d_head, most_heads" in caplog.text
    caplog.clear()
    assert SpeedMeter(random_model(), 4, PROTOCOL, known).table() == known.table
    assert caplog.text == ""
