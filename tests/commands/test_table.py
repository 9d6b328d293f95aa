import subprocess
import sys


def test_metrics_that_are_not_there_are_named(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "vitprune", "table", "--metrics", str(tmp_path / "evaluate.json")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'evaluate.json'}: no such file; run the stage that writes it")


def test_metrics_of_another_kind_are_refused_in_one_line(tmp_path):
    for name in ("evaluate.json", "timing.json"):
        (tmp_path / name).write_text('{"baseline": {}}')
    files = ["--metrics", str(tmp_path / "evaluate.json"), "--timing", str(tmp_path / "timing.json")]
    command = [sys.executable, "-m", "vitprune", "table", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "run the evaluate stage again" in done.stderr
