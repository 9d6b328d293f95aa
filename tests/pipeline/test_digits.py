"""What DVC's users do: repro, experiments in the workspace, in the queue and in a copy, and comparing them."""

import csv
import io
import json
import re

import pytest

from tests.pipeline.conftest import wait_for
from vitprune.storage import sha256_of

pytestmark = pytest.mark.slow

AFTER_TRAINING = ["acdc", "prune", "finetune", "evaluate", "report"]


def stages_run(output):
    return re.findall(r"Running stage '(\w+)'", output)


def experiments(workspace):
    """The table of ``dvc exp show``, a row per experiment."""
    return list(csv.DictReader(io.StringIO(workspace.run("dvc", "exp", "show", "--csv", "--no-pager"))))


def metrics_changed(workspace):
    changes = json.loads(workspace.run("dvc", "metrics", "diff", "--json"))
    return {f"{file}:{name}" for file, metrics in changes.items() for name in metrics}


def test_a_second_repro_runs_no_stage(digits):
    output = digits.run("dvc", "repro")
    assert stages_run(output) == []
    assert "Data and pipelines are up to date" in output
    assert digits.run("git", "status", "--porcelain") == ""


def test_every_output_is_there_and_git_holds_the_small_ones(digits):
    tracked = digits.run("git", "ls-files").split()
    for name in ("train", "acdc", "prune", "finetune", "evaluate", "timing", "clean", "summary"):
        assert f"metrics/{name}.json" in tracked
    for name in (
        "train.csv",
        "prune.csv",
        "gradient_flow.png",
        "confusion.png",
        "worst.png",
        "circuit.svg",
        "circuit.png",
        "kept.png",
    ):
        assert f"plots/{name}" in tracked
    assert "dvc.lock" in tracked
    assert not [name for name in tracked if name.endswith((".npy", ".safetensors"))]


def test_the_metrics_that_dvc_compares_are_few(digits):
    shown = json.loads(digits.run("dvc", "metrics", "show", "--json"))[""]["data"]
    assert list(shown) == ["metrics/summary.json"]
    summary = shown["metrics/summary.json"]["data"]
    assert 0 <= summary["pruned"]["accuracy"] <= 1
    assert summary["speedup"].keys() == {"batch_1", "batch_8"}
    assert summary.pop("machine").endswith("threads")
    assert sum(len(figures) for figures in summary.values()) <= 10


def test_scores_and_timings_are_nested_by_model(digits):
    evaluated, timed = (
        json.loads((digits.folder / f"metrics/{name}.json").read_text()) for name in ("evaluate", "timing")
    )
    for name in ("baseline", "baseline_pruned", "upgraded_baseline", "upgraded_baseline_pruned"):
        assert 0 <= evaluated[name]["accuracy"] <= 1
        assert evaluated[name]["loss"] > 0
        assert timed[name]["batch_8"]["median_ms"] > 0
    assert timed["loader"]["batch_8"]["median_ms"] > 0


def test_an_experiment_with_another_threshold_runs_what_depends_on_it(digits):
    output = digits.run("dvc", "exp", "run", "--name", "higher", "-S", "acdc.tau=0.05")
    assert stages_run(output) == AFTER_TRAINING
    changed = metrics_changed(digits)
    assert {"metrics/summary.json:circuit.edges_kept", "metrics/summary.json:pruned.loss"} <= changed
    params = json.loads(digits.run("dvc", "params", "diff", "--json"))
    assert params["params.yaml"]["acdc.tau"]["new"] == 0.05
    (row,) = [row for row in experiments(digits) if row["Experiment"] == "higher"]
    assert row["acdc.tau"] == "0.05"
    shown = {name for name, value in row.items() if value}
    assert {"circuit.edges_kept", "pruned.loss", "pruned.accuracy", "speedup.batch_8"} <= shown


def test_an_experiment_with_other_fine_tuning_searches_and_prunes_nothing(clean_digits):
    output = clean_digits.run("dvc", "exp", "run", "-S", "finetune.epochs=2", "finetune")
    assert stages_run(output) == ["finetune"]


@pytest.fixture(scope="module")
def threshold_after_speed(digits):
    """Two experiments up to fine-tuning, with a target of speed and then with another threshold as well.

    The stages that ran, and the pruned model, of each.
    """
    reset(digits)
    found = []
    for change in ("prune.target_speedup=1.2", "acdc.tau=1e-5"):
        output = digits.run("dvc", "exp", "run", "-S", change, "finetune")
        found.append((stages_run(output), (digits.folder / "models/pruned/model.safetensors").read_bytes()))
    return found


def test_a_target_of_speed_needs_no_search_and_another_threshold_leaves_its_model_as_it_is(threshold_after_speed):
    """The prune stage looks at the new circuit, finds that it does not decide, and gives the same model again."""
    (first_stages, first_model), (stages, model) = threshold_after_speed
    assert first_stages == ["prune", "finetune"]
    assert stages == ["acdc", "prune"]
    assert model == first_model


def test_a_number_that_dvc_writes_without_a_point_is_still_a_number(digits, threshold_after_speed):
    assert "1e-05" in (digits.folder / "params.yaml").read_text()
    assert json.loads((digits.folder / "models/circuit/circuit.json").read_text())["tau"] == 1e-5


def test_experiments_elsewhere_run_their_own_code(workspace):
    """An experiment takes the code as it was when it was queued, not what the workspace holds when it runs.

    In a folder of a plain name: DVC writes its path into a file that it opens as ASCII.
    """
    workspace.run("dvc", "repro", "clean")
    workspace.commit("clean")
    workspace.run("dvc", "exp", "run", "--queue", "--name", "queued", "-S", "clean.seed=2", "clean")
    command = workspace.folder / "vitprune" / "commands" / "clean.py"
    original = command.read_text()
    command.write_text("raise RuntimeError('the code of the workspace')\n")
    workspace.run("dvc", "queue", "start")
    # Not dvc queue logs --follow, which fails when the experiment ends between two of its looks.
    wait_for(lambda: has_ended(workspace, "queued"), seconds=300)
    assert "Success" in workspace.run("dvc", "queue", "status"), workspace.run("dvc", "queue", "logs", "queued")
    command.write_text(original)
    (row,) = [row for row in experiments(workspace) if row["Experiment"] == "queued"]
    assert row["clean.seed"] == "2"

    marked = original.replace('"""Decode, audit', '"""Decode, then audit')
    command.write_text(marked + "\n\nprint('the code of the experiment')\n")
    output = workspace.run("dvc", "exp", "run", "--temp", "--name", "elsewhere", "-S", "clean.seed=4", "clean")
    assert "the code of the experiment" in output
    assert stages_run(output) == ["clean"]


def has_ended(workspace, name):
    """Whether a queued experiment has, well or badly."""
    (row,) = [line for line in workspace.run("dvc", "queue", "status").splitlines() if name in line.split()]
    return row.split()[-1] not in ("Queued", "Running")


def test_the_readmes_python_runs_on_what_the_pipeline_made(digits):
    (snippet,) = re.findall(r"```python\n(.*?)```", (digits.folder / "README.md").read_text(), re.DOTALL)
    output = digits.run("python", "-c", snippet)
    assert re.search(r"\d+ of \d+ edges: \(\('", output)
    assert "Decision(sender='m1', receiver='logits'" in output


def test_dvc_draws_the_plots(digits):
    page = digits.run("dvc", "plots", "show", "--out", "drawn").strip().splitlines()[-1]
    assert page.endswith("index.html")
    html = (digits.folder / "drawn" / "index.html").read_text()
    for title in ("Loss of the baseline", "fine-tuned", "Learning rate", "gradient_flow.png"):
        assert title in html


def fingerprint(workspace):
    """The content of every output."""
    folders = ("data", "models", "metrics", "plots")
    files = [path for folder in folders for path in (workspace.folder / folder).rglob("*") if path.is_file()]
    return {path.relative_to(workspace.folder).as_posix(): sha256_of(path) for path in files}


def reset(digits):
    """Put the shared clone back at its commit, with the outputs of that run."""
    digits.run("git", "reset", "--hard", "--quiet")
    digits.run("dvc", "checkout", "--quiet")


@pytest.fixture
def clean_digits(digits):
    """The shared clone, back at its commit with the outputs of that run."""
    reset(digits)
    return digits


@pytest.mark.fault("a wrong parameter in an experiment", "one sentence names it, and every earlier output stays")
def test_a_bad_parameter_costs_no_earlier_output(clean_digits):
    digits = clean_digits
    before = fingerprint(digits)
    for change in ("acdc.tau=-1", "model.num_heads=3"):
        output = digits.run("dvc", "exp", "run", "-S", change, fails=True)
        assert f"error: params.yaml: {change.split('=')[0].replace('num_heads', 'd_model')}" in output
        assert "Traceback" not in output
        assert fingerprint(digits) == before
        digits.run("git", "reset", "--hard", "--quiet")


@pytest.mark.fault(
    "a second dvc repro at once, and SIGKILL of dvc",
    "DVC refuses the second, every earlier output stays, and the next run goes through",
)
def test_a_killed_run_costs_no_earlier_output_and_the_next_one_goes_through(clean_digits):
    digits = clean_digits
    before = fingerprint(digits)
    digits.set_params({"train.epochs": 500})
    dvc = digits.start("dvc", "repro", "train")
    try:
        wait_for(lambda: "epoch 2" in dvc.output())
        assert "is busy, it is being blocked by" in digits.run("dvc", "repro", "train", fails=True)
        dvc.kill()
        wait_for(lambda: not dvc.stages())
    finally:
        dvc.kill()
        digits.run("git", "checkout", "--quiet", "params.yaml")
    assert fingerprint(digits) == before
    assert stages_run(digits.run("dvc", "repro", "train")) == []


@pytest.mark.fault(
    "a dvc.lock that is cut short", "it is made again from git or from the outputs, without any training"
)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_broken_lock_file_costs_no_training(clean_digits, share):
    """As docs/training.md says."""
    digits, before = clean_digits, fingerprint(clean_digits)
    lock = digits.folder / "dvc.lock"
    content = lock.read_bytes()
    lock.write_bytes(content[: len(content) // 2])
    digits.run("git", "checkout", "dvc.lock")
    assert "Data and pipelines are up to date" in digits.run("dvc", "status")
    lock.unlink()
    digits.run("dvc", "commit", "--force")
    assert "Data and pipelines are up to date" in digits.run("dvc", "status")
    assert stages_run(digits.run("dvc", "repro")) == []
    assert fingerprint(digits) == before
