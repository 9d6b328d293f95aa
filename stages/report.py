"""The report stage: everything that the stages before found → reports/index.html, pictures of the circuit."""

from stages import run
from vitprune.commands.report import report

if __name__ == "__main__":
    run(report)
