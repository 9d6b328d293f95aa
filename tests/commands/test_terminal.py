"""What is said on the terminal."""

import contextlib
import json
import logging
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.run_command import assert_one_sentence, run_command
from vitprune import cli
from vitprune.commands import terminal

ROOT = Path(__file__).parents[2]


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


def test_the_version_is_that_of_the_package(tmp_path):
    assert run_command("--version", folder=tmp_path).stdout == f"vitprune {version('vitprune')}\n"


def test_tables_are_json_on_request(tmp_path, monkeypatch):
    monkeypatch.setenv(terminal.AS_JSON, "1")
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics")
    rows = json.loads(run_command("table", folder=tmp_path).stdout)["rows"]
    assert rows[0]["model"] == "baseline"
    assert len(rows) == 6


def test_quiet_leaves_warnings_and_errors_alone(tmp_path, monkeypatch):
    for arguments, level in ((("--quiet",), "WARNING"), ((), "INFO")):
        levels = []
        monkeypatch.setattr(cli, "report_errors", lambda levels=levels: watched(levels))
        assert_one_sentence(run_command(*arguments, "table", folder=tmp_path), "no such file")
        assert levels == [level]


@contextlib.contextmanager
def watched(levels):
    """The level of the log when a command has run."""
    with terminal.report_errors():
        try:
            yield
        finally:
            levels.append(logging.getLevelName(logging.getLogger("vitprune").level))
