"""``python -m tests.fuzz`` in small: the same mutations, fewer of them."""

import random

import pytest

from tests.fuzz.fuzzing import FAULTS, Outcome, fuzz
from tests.fuzz.mutations import MUTATIONS, mutate
from tests.fuzz.readers import READERS, Reader

PROMISES = {True: "every change is noticed", False: "it is read or refused, within five seconds"}


@pytest.mark.parametrize(
    "reader",
    [
        pytest.param(
            reader,
            id=reader.name,
            marks=pytest.mark.fault(f"random changes of a file ({reader.name})", PROMISES[reader.is_ours]),
        )
        for reader in READERS
    ],
)
def test_mutated_files_are_read_or_refused(tmp_path, reader):
    counts, faults = fuzz(reader, tmp_path, 60, seed=0)
    assert counts.total() == 60
    assert not faults, "\n".join(faults)


def _hang(folder):
    while (folder / "file").read_bytes() != b"original":
        pass


@pytest.mark.parametrize(
    ("read", "is_ours", "outcome"),
    [
        (lambda folder: (folder / "file").read_bytes(), False, Outcome.READ),
        (lambda folder: (folder / "file").read_bytes(), True, Outcome.SILENT),
        (lambda folder: int((folder / "file").read_bytes() == b"original") or {}["gone"], True, Outcome.FOREIGN),
        (_hang, True, Outcome.HANG),
    ],
)
def test_each_outcome_is_told(tmp_path, monkeypatch, read, is_ours, outcome):
    monkeypatch.setattr("tests.fuzz.fuzzing.SECONDS", 0.05)
    reader = Reader("text", lambda folder: (folder / "file").write_bytes(b"original"), read, is_ours=is_ours)
    counts, faults = fuzz(reader, tmp_path, 2, seed=0)
    assert counts == {outcome: 2}
    assert len(faults) == (2 if outcome in FAULTS else 0)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutation_changes_what_it_gets(mutation):
    content = b'{"a": [1, 2.5, {"b": null}], "c": "text"}'
    changed = {mutation(content, random.Random(seed)) for seed in range(50)}
    assert len(changed - {content}) > 1
    assert mutate(content, random.Random(0)) == mutate(content, random.Random(0)) != content
