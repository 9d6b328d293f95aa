"""The table of faults in docs/reliability.md is that of the tests."""

import subprocess
import sys

import pytest

from tests.faults.table import ROOT


@pytest.mark.slow
def test_the_table_of_faults_is_up_to_date():
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.table", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
