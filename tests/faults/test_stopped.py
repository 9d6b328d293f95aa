"""Fine-tuning that was stopped goes on with the model it started from, never with that of other params."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT, SMALL, Workspace, wait_for
from tests.run_command import assert_one_sentence, run_stage

pytestmark = pytest.mark.slow

CHANGES = SMALL | {
    "acdc.num_images": 8,
    "acdc.curves": False,
    "acdc.granularity": "node",
    "finetune.epochs": 3,
    # Saved after each step, so that it can be stopped in the first.
    "train.checkpoint_minutes": 1e-6,
    "compute.device": "cpu",
    "compute.threads": 1,
}


def run(folder: Path, *stages: str) -> None:
    for stage in stages:
        done = run_stage(stage, folder)
        assert done.returncode == 0, done.stderr


def stopped_in(state: Path, stage: str, folder: Path) -> None:
    """Run a stage in a process of its own and send it a SIGTERM once it has written a state."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"stages.{stage}"]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(state.exists)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert f"run again to go on from {state.relative_to(folder)}" in said


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A folder in which fine-tuning of the pruned model was stopped; the control was finished before."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copy2(ROOT / "params.yaml", folder)
    Workspace(folder).set_params(CHANGES)
    run(folder, "download", "clean", "train", "acdc", "prune")
    stopped_in(folder / ".vitprune" / "finetune_pruned.pt", "finetune", folder)
    return folder


def weights(folder: Path) -> dict[str, bytes]:
    models = folder / "models" / "finetuned"
    return {name: (models / name / "model.safetensors").read_bytes() for name in ("baseline", "pruned")}


@pytest.mark.fault(
    "SIGTERM while the pruned model is fine-tuned, then another τ or target",
    "the state of the model before is refused, and once it is deleted the result is that of a run from the beginning",
)
def test_another_threshold_does_not_go_on_from_the_old_pruned_model(stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "again")
    states = {path.name: path.read_bytes() for path in (folder / ".vitprune").iterdir()}
    assert set(states) == {"finetune_baseline.pt", "finetune_pruned.pt"}
    before = (folder / "models/pruned/model.safetensors").read_bytes()
    Workspace(folder).set_params({"acdc.tau": 0.2})
    run(folder, "acdc", "prune")
    assert (folder / "models/pruned/model.safetensors").read_bytes() != before
    fresh = shutil.copytree(folder, tmp_path / "fresh", ignore=shutil.ignore_patterns(".vitprune"))
    done = run_stage("finetune", folder)
    assert done.returncode == 1
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert ".vitprune/finetune_pruned.pt: is the state of an interrupted run with another configuration" in sentence
    assert "delete .vitprune/finetune_pruned.pt" in sentence
    assert {path.name: path.read_bytes() for path in (folder / ".vitprune").iterdir()} == states
    (folder / ".vitprune" / "finetune_pruned.pt").unlink()
    run(folder, "finetune")
    run(fresh, "finetune")
    assert weights(folder) == weights(fresh)
    assert not list((folder / ".vitprune").iterdir())


@pytest.mark.fault("SIGTERM while the pruned model is fine-tuned", "the next run ends with the same weights")
def test_the_same_params_go_on_to_the_same_weights(stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "again")
    fresh = shutil.copytree(stopped, tmp_path / "fresh", ignore=shutil.ignore_patterns(".vitprune"))
    for place in (folder, fresh):
        run(place, "finetune")
    assert weights(folder) == weights(fresh)


@pytest.mark.fault("SIGTERM in a fine-tuning, then other images or another length", "the state is refused and stays")
@pytest.mark.parametrize(
    ("change", "stages", "state", "name"),
    [
        ({"finetune.epochs": 4}, (), "finetune_baseline.pt", "epochs 3, now 4"),
        ({"clean.seed": 5}, ("clean",), "finetune_baseline.pt", "training images"),
    ],
)
def test_other_params_do_not_go_on_from_it(stopped, tmp_path, change, stages, state, name):
    folder = shutil.copytree(stopped, tmp_path / "again")
    Workspace(folder).set_params(change)
    run(folder, *stages)
    assert_one_sentence(run_stage("finetune", folder), f".vitprune/{state}", name)
    assert (folder / ".vitprune" / state).is_file()
