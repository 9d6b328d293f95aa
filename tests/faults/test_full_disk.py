"""The disk is full while something is written: the sentence names what, and what was there before stays.

No file may grow beyond a few kilobytes in these processes, which the system reports as it reports a full disk.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WRITE = """
import resource, sys
from pathlib import Path

import torch

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Ablation, Circuit, Graph, discover
from vitprune.circuit.circuit import Decision
from vitprune.circuit.engine.journal import Journal
from vitprune.core.model import Preprocessing, SavedModel, save_model
from vitprune.errors import VitpruneError
from vitprune.storage import write_json
from vitprune.training.state import State, StateFile

target = Path(sys.argv[2])
model = random_model(1, dtype=torch.float32, d_model=32, d_mlp=64)
saved = SavedModel(model=model, preprocessing=Preprocessing(mean=(0.4,), std=(0.3,)), class_names=("a", "b", "c"))
graph = Graph.of(model)


def write_journal():
    with Journal(graph, target, "key") as journal:
        while True:
            journal.record(Decision(sender="embed", receiver="logits", action="kept", before=0.0, after=1.0))


writers = {
    "model": lambda: save_model(target, saved),
    "circuit": lambda: discover(model, random_images(model), tau=0.01).save(target),
    "state": lambda: StateFile(target, {}, 1).save(State(tensors=dict(model.state_dict()), numbers={})),
    "metrics": lambda: write_json(target, list(range(10_000))),
    "journal": write_journal,
}
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    writers[sys.argv[1]]()
except VitpruneError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(
            what, marks=pytest.mark.fault(f"the disk is full while a {what} is written", "the sentence names it")
        )
        for what in ("model", "circuit", "state", "metrics", "journal")
    ],
)
def test_a_full_disk_is_told_by_what_was_being_written(tmp_path, what):
    target = tmp_path / "target"
    done = subprocess.run([sys.executable, "-c", WRITE, what, str(target)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert str(target) in done.stderr
    assert "File too large" in done.stderr or "full" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == (["target"] if what == "journal" else [])
