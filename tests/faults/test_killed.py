"""A process may be killed at any moment: what was there stays, and nothing goes on writing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitprune.commands.terminal import report_errors

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

# DVC starts a stage through the user's shell; some shells stay between the two, as one with a trap does.
PARENT = """
import subprocess, sys
command = {"none": [sys.executable, "-c", sys.argv[1]]}.get(sys.argv[2])
if command is None:
    script = 'trap : TERM; "$0" -c "$1"; true'
    command = [sys.argv[2], "-c", script, sys.executable, sys.argv[1]]
child = subprocess.Popen(command, stdout=subprocess.PIPE)
print(child.stdout.readline().decode().strip(), flush=True)
child.wait()
"""

STAGE = """
import os, time
from stages import run

def work():
    print(os.getpid(), flush=True)
    time.sleep(60)

run(work)
"""


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.fault("a kill of dvc, or of the shell that it started", "the stage stops too")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
@pytest.mark.fault("SIGKILL of dvc, or of the shell between it and a stage", "the stage stops")
@pytest.mark.parametrize("shell", ["none", "sh", "bash"])
def test_a_stage_stops_when_the_process_that_started_it_is_killed(shell):
    if shell != "none" and shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PARENT, STAGE, shell]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as parent:
        stage = int(parent.stdout.readline())
        assert is_running(stage)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 20
        while is_running(stage) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not is_running(stage)


@pytest.mark.fault("an interrupt from the keyboard", "one word, and the status that a shell expects")
def test_an_interrupted_command_ends_with_its_usual_status(capsys):
    with pytest.raises(SystemExit) as end, report_errors():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
