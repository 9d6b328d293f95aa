import json
import subprocess
from pathlib import Path

import pytest

from vitprune.errors import DataError
from vitprune.evaluation.models import MODELS
from vitprune.evaluation.table import model_table, short_table
from vitprune.report.markdown import fill, to_markdown


@pytest.fixture
def figures():
    scores = {
        model.name: {
            "loss": 0.5,
            "accuracy": 0.975,
            "parameters": 1234567,
            "multiply_adds": 2_500_000,
            "bytes": 900_000,
        }
        for model in MODELS
    }
    scores["circuit"] = {"loss": 0.7, "accuracy": 0.9, "edges": 100, "edges_kept": 7}
    scores |= {"dataset": "digits", "test_images": 500, "largest_class_share": 0.125, "seed": 3}
    latency = {"median_ms": 4.0, "speedup": 1.5}
    timing = {model.name: {"batch_8": latency, "batch_128": latency} for model in MODELS}
    timing["loader"] = {"batch_8": {"median_ms": 0.5}, "batch_128": {"median_ms": 0.7}}
    timing |= {"machine": {"device": "a CPU", "threads": 2, "torch": "2.15"}, "rounds": 50, "dtype": "float32"}
    return scores, timing


@pytest.fixture
def table(figures):
    return model_table(*figures)


def test_the_table_has_a_row_for_each_model_and_for_the_circuit(table):
    assert [row[0] for row in table.rows] == [
        "baseline",
        "circuit of 7 of 100 edges, masked",
        "baseline, pruned",
        "upgraded baseline",
        "upgraded baseline, pruned",
        "fetching the batch",
    ]
    assert {len(row) for row in table.rows} == {len(table.headers)}
    assert table.rows[0][1:] == (
        "0.5000", "97.50 %", "1,234,567", "2.50 M", "0.90 MB", "4.00 ms", "4.00 ms", "1.50×", "1.50×",
    )  # fmt: skip


def test_the_short_table_has_what_is_looked_at_first(figures):
    table = short_table(*figures)
    assert table.headers == ("model", "test loss", "accuracy", "size", "batch 8", "batch 128")
    assert table.rows[0] == ("baseline", "0.5000", "97.50 %", "0.90 MB", *["4.00 ms (1.50×)"] * 2)
    assert table.rows[1] == ("circuit of 7 of 100 edges, masked", "0.7000", "90.00 %", "–", "–", "–")
    assert "Fetching" not in table.caption
    only = dict(figures[1])
    for model in MODELS:
        only[model.name] = {"batch_8": only[model.name]["batch_8"]}
    assert short_table(figures[0], only).headers[4:] == ("batch 8",)


def test_fetching_a_batch_has_a_row_of_its_own(table):
    assert table.rows[-1][1:] == ("–", "–", "–", "–", "–", "0.50 ms", "0.70 ms", "–", "–")


def test_the_caption_says_on_what_the_figures_were_taken(table):
    for part in (
        "digits",
        "500 test images (one is 0.20 points; the largest class has 12.5 % of them)",
        "seed 3",
        "50 interleaved",
        "a CPU",
        "2 threads",
    ):
        assert part in table.caption


def test_a_markdown_file_is_filled_between_its_marks_and_only_there(tmp_path, table):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n")
    for _ in range(2):
        fill(path, "results", to_markdown(table))
        text = path.read_text()
        assert text.startswith("before\n<!-- results:begin -->\n| model | test loss |")
        assert text.endswith("<!-- results:end -->\nafter\n")
        assert "old" not in text


@pytest.mark.parametrize("text", ["nothing", "<!-- results:end --> <!-- results:begin -->", "<!-- results:begin -->"])
def test_a_file_without_marks_is_refused_and_left_alone(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(DataError, match=r"README\.md: needs one line <!-- results:begin -->"):
        fill(path, "results", "new")
    assert path.read_text() == text


def committed(path):
    root = Path(__file__).parents[2]
    return subprocess.run(["git", "show", f"HEAD:{path}"], cwd=root, capture_output=True, check=True, text=True).stdout


def test_the_committed_readme_shows_the_figures_of_the_committed_metrics():
    scores, timing = (json.loads(committed(f"metrics/{name}.json")) for name in ("evaluate", "timing"))
    assert to_markdown(short_table(scores, timing)) in committed("README.md")
