import itertools

import pytest
from matplotlib.figure import Figure

from vitprune.errors import CheckpointError
from vitprune.report.pareto import (
    Experiment,
    draw_pareto,
    experiments_table,
    pareto_front,
    read_experiments,
    write_pareto,
)

HEADER = (
    "Experiment,rev,metrics/summary.json:pruned.accuracy,control.accuracy,speedup.batch_8,prune.target_speedup,acdc.tau"
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


# As DVC 3.67 wrote it before there was a summary: an experiment that failed or still runs has the
# figures of the commit that it is based on.
WITH_STATES = """\
Experiment,rev,typ,Created,parent,State,upgraded_baseline.accuracy,upgraded_baseline_pruned.accuracy,\
upgraded_baseline_pruned.batch_8.speedup,prune.target_speedup
,workspace,baseline,,,,0.474,0.434,2.247,
,main,baseline,2026-11-25T14:59:01,,,0.474,0.434,2.247,
naval-aqua,55a2f0d,branch_commit,2026-11-25T15:00:22,,Success,0.474,0.436,1.549,1.5
agile-sech,48ca53a,branch_base,2026-11-25T14:59:46,,Failed,0.474,0.434,2.247,300.0
focal-holy,2d1af8a,branch_commit,2026-11-25T15:30:00,,Running,0.474,0.434,2.247,1.9
banal-moit,9dd497d,branch_commit,2026-11-25T15:05:00,,Queued,,,,2.5
"""


@pytest.mark.fault(
    "an experiment failed or still runs, with its parent's figures", "it is left out, and a line says so"
)
def test_the_state_of_an_experiment_decides_whether_it_is_drawn(tmp_path, caplog):
    path = tmp_path / "experiments.csv"
    path.write_text(WITH_STATES)
    caplog.set_level("INFO")
    assert [(found.name, found.speedup) for found in read_experiments(path, 8)] == [
        ("workspace", 2.247),
        ("target_speedup=1.5", 1.549),
    ]
    assert "experiments left out: 1 failed, 1 running, 1 queued" in caplog.text


def test_an_experiment_that_is_there_several_times_is_drawn_once_by_its_own_name(tmp_path):
    same = "0.8,0.91,2.5,2.0,0.01"
    path = table(tmp_path, f",workspace,{same}", f",main,{same}", f"swift-fox,abc,{same}")
    assert [found.name for found in read_experiments(path, 8)] == ["swift-fox"]


@pytest.mark.fault("figures of an experiment cannot be read, or are impossible", "it is left out, and a line says so")
@pytest.mark.parametrize("figures", ["!,!,!", ",,", "0.8,0.9,0", "0.8,0.9,-2", "0.8,0.9,inf", "1.5,0.9,2", "nan,0.9,2"])
def test_an_experiment_without_usable_figures_is_left_out(tmp_path, caplog, figures):
    caplog.set_level("INFO")
    path = table(tmp_path, "a,abc,0.8,0.91,2.5,2.0,0.01", f"b,def,{figures},2.0,0.01")
    assert [found.name for found in read_experiments(path, 8)] == ["a"]
    assert "experiments left out: 1 without figures" in caplog.text


def test_a_table_without_a_finished_experiment_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="has no finished experiment"):
        read_experiments(table(tmp_path, "b,def,!,!,!,2.0,0.01"), 8)


def test_a_batch_size_that_was_not_timed_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no column speedup\.batch_128"):
        read_experiments(table(tmp_path, "a,abc,0.8,0.91,2.5,2.0,0.01"), 128)


def test_an_experiment_that_dvc_did_not_name_gets_its_number(tmp_path):
    path = tmp_path / "experiments.csv"
    _, _, rest = HEADER.partition(",rev,")
    path.write_text(f"{rest}\n0.8,0.91,2.5,2.0,0.01\n")
    assert [found.name for found in read_experiments(path, 8)] == ["experiment 1"]


@pytest.mark.fault(
    "a table of experiments is empty, of another encoding or no table", "the command that writes it is named"
)
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b'a,b\n"1'])
def test_what_is_not_a_table_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "experiments.csv").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"dvc exp show --csv"):
        read_experiments(tmp_path / "experiments.csv", 8)


def test_the_front_has_what_nothing_beats_in_both():
    slow, good, beaten, fast = (experiment(*figures) for figures in ((0.95, 1.0), (0.93, 2.0), (0.92, 1.9), (0.8, 3.0)))
    assert pareto_front([beaten, fast, slow, good]) == [slow, good, fast]


def test_the_table_goes_from_slow_to_fast_and_marks_the_front():
    table = experiments_table([experiment(0.8, 3.0, "b"), experiment(0.7, 1.5, "c"), experiment(0.9, 2.0, "a")], 8)
    assert table.rows[0] == ("c", "1.50×", "70.00 %", "90.00 %")
    assert [row[0] for row in table.rows] == ["c", "a *", "b *"]


def test_plot_and_figures_are_written(tmp_path):
    experiments = [experiment(0.9, 2.0, "a"), experiment(0.8, 3.0, "b"), experiment(0.7, 1.5, "c")]
    draw_pareto(tmp_path / "pareto.png", experiments, 8)
    write_pareto(tmp_path / "pareto.csv", experiments)
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "pareto.csv").read_text().splitlines()
    assert lines[1:] == ["c,1.5,0.7,0.9,False", "a,2.0,0.9,0.9,True", "b,3.0,0.8,0.9,True"]


def test_a_run_with_a_target_is_not_called_by_its_threshold(tmp_path):
    path = table(tmp_path, "a,abc,0.8,0.91,2.5,2.0,0.01", "b,def,0.7,0.91,2.6,2.0,0.02", "c,ghi,0.6,0.91,1.5,,0.02")
    assert [found.name for found in read_experiments(path, 8)] == ["target_speedup=2", "target_speedup=2", "tau=0.02"]


def test_what_was_timed_on_another_machine_is_left_out_with_a_word(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "experiments.csv"
    rows = ["a,abc,0.8,0.91,2.5,2.0,0.01,CPU A", "b,def,0.7,0.91,2.6,3.0,0.01,CPU B", "c,ghi,0.6,0.91,1.5,1.5,0.01,"]
    path.write_text("\n".join([f"{HEADER},machine", *rows]))
    assert [found.speedup for found in read_experiments(path, 8)] == [2.5, 1.5]
    assert "experiments left out: 1 timed on another machine" in caplog.text


def test_labels_overlap_neither_each_other_nor_the_frame(tmp_path, monkeypatch):
    boxes = []

    def keep_boxes(figure, path, **kwargs):
        (axes,) = figure.axes
        texts = [text for text in axes.texts if text.get_text()]
        boxes.extend(text.get_window_extent() for text in texts)
        assert len(texts) == 8
        frame = axes.get_window_extent()
        for box in boxes:
            assert frame.x0 <= box.x0
            assert box.x1 <= frame.x1
        path.touch()

    monkeypatch.setattr(Figure, "savefig", keep_boxes)
    draw_pareto(tmp_path / "a.png", [experiment(0.9 + 0.001 * n, 2 + 0.04 * n, f"target={n}") for n in range(8)], 8)
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
