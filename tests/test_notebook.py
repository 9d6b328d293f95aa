"""The tour runs from top to bottom, in a copy, and ends in its table."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parents[1] / "notebooks" / "tour.ipynb"


def printed(notebook):
    """All text that the cells print."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "\n".join(output["text"] for cell in cells for output in cell.outputs if output.output_type == "stream")


@pytest.mark.slow
def test_the_tour_runs_and_shows_what_it_promises():
    notebook = nbformat.read(TOUR, nbformat.NO_CONVERT)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(TOUR.parent)}}).execute()
    text = printed(notebook)
    found = dict(re.findall(r"^(mean|refit): .* KL ([\d.]+) nats", text, re.MULTILINE))
    assert 0 < float(found["refit"]) < float(found["mean"])
    assert re.search(r"\d+ of 1697 edges", text)
    assert re.search(r"^pruned +[\d.]+ +[\d.]+% +[\d,]+ +[\d.]+×", text, re.MULTILINE)
    kinds = {kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert {"image/svg+xml", "image/png"} <= kinds


def test_the_tour_is_committed_with_what_it_showed():
    notebook = nbformat.read(TOUR, nbformat.NO_CONVERT)
    assert "refit: right on" in printed(notebook)
    assert not re.search(r"/(home|root|work|tmp)/", TOUR.read_text())
