import pytest

from vitprune.errors import CheckpointError
from vitprune.report.pareto import Experiment, draw_pareto, pareto_front, read_experiments, write_pareto

HEADER = (
    "Experiment,rev,metrics/evaluate.json:upgraded_baseline_pruned.accuracy,upgraded_baseline.accuracy,"
    "upgraded_baseline_pruned.batch_8.speedup,prune.target_speedup,acdc.tau"
)


def table(tmp_path, *rows):
    path = tmp_path / "experiments.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def experiment(accuracy, speedup, name="x"):
    return Experiment(name=name, accuracy=accuracy, speedup=speedup, control_accuracy=0.9)


def test_experiments_are_named_by_the_params_in_which_they_differ(tmp_path):
    path = table(tmp_path, ",workspace,0.9,0.91,1.0,,0.01", "fast,abc,0.8,0.91,2.5,2.0,0.01")
    assert [(found.name, found.accuracy, found.speedup) for found in read_experiments(path, 8)] == [
        ("workspace", 0.9, 1.0),
        ("target_speedup=2", 0.8, 2.5),
    ]


def test_unfinished_and_failed_experiments_and_duplicates_are_left_out(tmp_path):
    row = "a,abc,0.8,0.91,2.5,2.0,0.01"
    path = table(tmp_path, row, row, "queued,def,,,,3.0,0.01", "failed,fed,!,!,!,3.0,0.01")
    assert len(read_experiments(path, 8)) == 1


def test_a_batch_size_that_was_not_timed_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no column upgraded_baseline_pruned\.batch_128\.speedup"):
        read_experiments(table(tmp_path, "a,abc,0.8,0.91,2.5,2.0,0.01"), 128)


def test_an_experiment_that_dvc_did_not_name_gets_its_number(tmp_path):
    path = tmp_path / "experiments.csv"
    _, _, rest = HEADER.partition(",rev,")
    path.write_text(f"{rest}\n0.8,0.91,2.5,2.0,0.01\n")
    assert [found.name for found in read_experiments(path, 8)] == ["experiment 1"]


def test_what_is_not_a_table_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"not readable as CSV .* dvc exp show --csv"):
        read_experiments(tmp_path / "none.csv", 8)


def test_the_front_has_what_nothing_beats_in_both():
    slow, good, beaten, fast = (experiment(*figures) for figures in ((0.95, 1.0), (0.93, 2.0), (0.92, 1.9), (0.8, 3.0)))
    assert pareto_front([beaten, fast, slow, good]) == [slow, good, fast]


def test_plot_and_figures_are_written(tmp_path):
    experiments = [experiment(0.9, 2.0, "a"), experiment(0.8, 3.0, "b"), experiment(0.7, 1.5, "c")]
    draw_pareto(tmp_path / "pareto.png", experiments, 8)
    write_pareto(tmp_path / "pareto.csv", experiments)
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "pareto.csv").read_text().splitlines()
    assert lines[1:] == ["c,1.5,0.7,0.9,False", "a,2.0,0.9,0.9,True", "b,3.0,0.8,0.9,True"]
