import json
from pathlib import Path

import pytest

from tests.json_changes import REMOVED, places, replaced
from tests.run_command import assert_one_sentence, run_command

ROOT = Path(__file__).parents[2]


def test_metrics_that_are_not_there_are_named(tmp_path):
    done = run_command("table", folder=tmp_path)
    assert_one_sentence(done, "error: metrics/evaluate.json: no such file; run the stage that writes it")


def test_metrics_of_another_kind_are_refused_in_one_line(tmp_path):
    (tmp_path / "metrics").mkdir()
    for name in ("evaluate.json", "timing.json"):
        (tmp_path / "metrics" / name).write_text('{"baseline": {}}')
    assert_one_sentence(run_command("table", folder=tmp_path), "run the evaluate stage again")


@pytest.mark.fault("metrics that were edited by hand", "a table all the same, or one sentence that says what to run")
def test_whatever_changes_in_the_metrics_ends_in_a_table_or_in_one_sentence(tmp_path):
    (tmp_path / "metrics").mkdir()
    names = ("evaluate.json", "timing.json")
    content = {name: json.loads((ROOT / "metrics" / name).read_text()) for name in names}
    statuses = []
    for name in names:
        for other in names:
            (tmp_path / "metrics" / other).write_text(json.dumps(content[other]))
        for place in filter(None, places(content[name])):
            for new in ("text", 0, REMOVED):
                (tmp_path / "metrics" / name).write_text(json.dumps(replaced(content[name], place, new)))
                done = run_command("table", folder=tmp_path)
                if done.returncode:
                    assert_one_sentence(done, name, "run the evaluate stage again")
                statuses.append(done.returncode)
    assert {0, 1} == set(statuses)
