"""A teacher that is changed in place: what DVC sees, and what the stages say."""

import shutil

import pytest
import torch

from vitprune.core.model import load_model, save_model

pytestmark = pytest.mark.slow


@pytest.mark.fault(
    "a teacher or pretrained file that is changed in place, which DVC does not watch",
    "the next stage warns; named under deps in dvc.yaml it is trained from again",
)
def test_a_teacher_that_changes_is_noticed(workspace):
    folder = workspace.folder
    workspace.set_params({"train.epochs": 2, "acdc.curves": False, "acdc.granularity": "node"})
    workspace.run("dvc", "repro", "train")
    shutil.copytree(folder / "models" / "baseline", folder / "teacher")
    workspace.set_params({"train.teacher": "teacher"})
    output = workspace.run("dvc", "repro", "acdc")
    assert "train.teacher: DVC does not watch teacher" in output
    assert "has changed since" not in output

    change(folder / "teacher")
    output = workspace.run("dvc", "repro", "--force", "--single-item", "acdc")
    assert "models/baseline: was made from train.teacher (teacher) as it was; it has changed since" in output

    pipeline = folder / "dvc.yaml"
    before = "      - vitprune/pretrained\n"
    pipeline.write_text(pipeline.read_text().replace(before, f"{before}      - teacher\n"))
    assert "Running stage 'train'" in workspace.run("dvc", "repro", "train")
    assert "train" not in workspace.run("dvc", "status", "train")
    change(folder / "teacher")
    assert "teacher" in workspace.run("dvc", "status", "train")


def change(folder):
    """Another model of the same shape in the place of the one in ``folder``."""
    saved = load_model(folder)
    with torch.no_grad():
        next(saved.model.parameters()).mul_(2)
    save_model(folder, saved)
