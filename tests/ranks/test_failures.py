"""Of the failures of several ranks, the one that came first is said."""

import json
import os

import pytest

from vitprune.core.compute.failures import first_failure

LOST = "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:5"
CALLS = {"py_callstack": 'File "/a/b.py", line 7, in work'}


def record(folder, rank, message, time):
    """What torch's launcher leaves of a rank that recorded its error at a time."""
    path = folder / "attempt_0" / str(rank) / "error.json"
    path.parent.mkdir(parents=True)
    path.write_text(message if message == "{" else json.dumps({"message": {"message": message, "extraInfo": CALLS}}))
    os.utime(path, (time, time))


@pytest.mark.fault("the failure of one process, and those of the others because of it", "the first one is said")
@pytest.mark.parametrize(
    ("errors", "statuses", "said"),
    [
        ({0: LOST, 1: "Sentence: no images"}, {0: 1, 1: 1}, "no images"),
        (
            {0: "KeyError: 'a'", 1: "ValueError: b"},
            {0: 1, 1: 1},
            "process 0 of 3 failed (KeyError: 'a', /a/b.py line 7)",
        ),
        ({0: LOST, 2: LOST}, {0: 1, 1: -9, 2: 1}, "process 1 of 3 was ended by SIGKILL, as the system does"),
        ({0: LOST}, {0: 1, 1: -11, 2: -15}, "process 1 of 3 was ended by SIGSEGV"),
        ({0: LOST, 1: "{"}, {0: 1, 1: -15}, "process 0 of 3 failed (RuntimeError: [gloo"),
        ({0: LOST}, {0: 1, 1: 3}, "process 1 of 3 ended with status 3"),
        ({}, {0: -15, 1: -15}, "process 0 of 3 was ended by SIGTERM"),
    ],
)
def test_the_first_failure_is_said(tmp_path, errors, statuses, said):
    for time, (rank, message) in enumerate(errors.items()):
        record(tmp_path, rank, message, time)
    assert first_failure(tmp_path, statuses, 3).startswith(said)
