"""The table of faults in docs/reliability.md, from the marks of the tests that inject them.

python -m tests.faults.table            # writes it (make reliability)
python -m tests.faults.table --check    # says whether it is up to date
"""

import argparse
import os
import sys
from pathlib import Path

import pytest

from vitprune.errors import DataError
from vitprune.evaluation.table import Table
from vitprune.report.markdown import fill, to_markdown

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reliability.md"


class FaultCollector:
    """A plugin of pytest that takes down the marks of all collected tests: fault, promise and test."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], None] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for mark in item.iter_markers("fault"):
                fault, promise = mark.args
                # Cases of one test that inject the same fault are one row.
                self.rows[fault, promise, item.nodeid.partition("[")[0]] = None


def collect() -> list[tuple[str, str, str]]:
    """All faults with their promises and tests, in the order of the test files."""
    collector = FaultCollector()
    status = pytest.main(
        ["--collect-only", "-qq", "-m", "fault", "-p", "no:cacheprovider", str(ROOT / "tests")], plugins=[collector]
    )
    if status != pytest.ExitCode.OK:
        raise DataError(f"the tests cannot be collected (pytest's status {status}); run make test")
    return sorted(collector.rows, key=lambda row: row[2].partition("::")[0])


def markdown(rows: list[tuple[str, str, str]]) -> str:
    """The table, a row for each fault, with their number below."""
    cells = []
    for fault, promise, test in rows:
        file, _, name = test.partition("::")
        cells.append((fault, promise, f"[`{name}`](../{file})"))
    table = Table(
        headers=("what goes wrong", "what is promised", "test"), rows=tuple(cells), caption=f"{len(rows)} faults."
    )
    return to_markdown(table).replace("---:", "---").rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    os.chdir(ROOT)
    content = markdown(collect())
    if not check:
        fill(DOCUMENT, "faults", content)
    elif f"\n{content}\n" not in DOCUMENT.read_text("utf-8"):
        sys.stderr.write(f"{DOCUMENT.relative_to(ROOT)}: is not up to date; run make reliability\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
