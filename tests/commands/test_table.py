from tests.run_command import assert_one_sentence, run_command


def test_metrics_that_are_not_there_are_named(tmp_path):
    done = run_command("table", folder=tmp_path)
    assert_one_sentence(done, "error: metrics/evaluate.json: no such file; run the stage that writes it")


def test_metrics_of_another_kind_are_refused_in_one_line(tmp_path):
    (tmp_path / "metrics").mkdir()
    for name in ("evaluate.json", "timing.json"):
        (tmp_path / "metrics" / name).write_text('{"baseline": {}}')
    assert_one_sentence(run_command("table", folder=tmp_path), "run the evaluate stage again")
