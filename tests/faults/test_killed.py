"""A process may be killed at any moment: what was there stays, and nothing goes on writing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
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


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_a_stage_stops_when_the_process_that_started_it_is_killed():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PARENT, STAGE]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as parent:
        stage = int(parent.stdout.readline())
        assert is_running(stage)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 20
        while is_running(stage) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not is_running(stage)


def test_an_interrupted_command_ends_with_its_usual_status():
    code = "from vitprune.commands.terminal import report_errors\nwith report_errors():\n    raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
