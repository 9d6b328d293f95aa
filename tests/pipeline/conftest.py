"""Real git clones of this project in which real DVC runs the real stages, on a model small enough to take seconds."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

SMALL = {
    "model.d_model": 16,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.d_mlp": 32,
    # Long enough that the model knows something: of one that does not, every threshold removes everything.
    "train.epochs": 12,
    "train.learning_rate": 0.004,
    "train.warmup_epochs": 1,
    "train.augment.rotation_degrees": 0,
    "train.augment.erasing": 0,
    "train.augment.mixup_alpha": 0,
    "acdc.tau": 0.0001,
    "acdc.mlp_groups": 2,
    "acdc.bootstrap_samples": 2,
    "acdc.num_images": 32,
    "acdc.num_reference_images": 64,
    # No clock decides, but the circuit.
    "prune.target_speedup": None,
    "prune.num_images": 32,
    "prune.num_fold_images": 64,
    "prune.timing_batch_size": 16,
    "prune.timing_rounds": 5,
    "prune.timing_warmup": 1,
    "finetune.epochs": 1,
    "finetune.warmup_epochs": 0.5,
    "evaluate.timing_batch_sizes": [1, 8],
    "evaluate.timing_rounds": 5,
    "evaluate.timing_warmup": 1,
}


class Workspace:
    """A clone with its own DVC cache; commands run as a user with the environment activated would run them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def environment(self) -> dict[str, str]:
        """That of a user who activated the virtual environment."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {
            "PATH": path,
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
        }

    def start(self, *command: str) -> "Background":
        """A command that goes on in the background."""
        return Background(command, self.folder, self.environment())

    def run(self, *command: str, fails: bool = False) -> str:
        """Standard output and error of a command, which must succeed, or fail if ``fails``."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        output = done.stdout + done.stderr
        assert bool(done.returncode) == fails, output
        return output

    def set_params(self, changes: dict) -> None:
        """Change ``params.yaml`` by dotted keys."""
        path = self.folder / "params.yaml"
        content = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            *sections, name = key.split(".")
            section = content
            for part in sections:
                section = section[part]
            section[name] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def commit(self, message: str) -> None:
        """Commit everything that git does not ignore."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", message)


class Background:
    """A process that can be killed while it runs, and the stages that it started."""

    def __init__(self, command: tuple[str, ...], folder: Path, environment: dict[str, str]) -> None:
        self.log = folder.parent / f"{folder.name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        self.folder = folder

    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()

    def stages(self) -> list[int]:
        """Process numbers of stages that run in this workspace."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                is_stage = b"stages." in (process / "cmdline").read_bytes()
                if is_stage and (process / "cwd").resolve() == self.folder.resolve():
                    found.append(int(process.name))
            except OSError:
                continue
        return found

    def kill(self) -> None:
        """Kill the process itself, as the kernel would when memory is short."""
        self.process.kill()
        self.process.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return when ``condition`` holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def clone(folder: Path) -> Workspace:
    """A git repository with the files of this checkout as they are, committed or not."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, names.split("\0")):
        source = ROOT / name
        if source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    workspace = Workspace(folder)
    workspace.run("git", "init", "--quiet", "--initial-branch", "main")
    workspace.run("git", "config", "user.name", "A Tester")
    workspace.run("git", "config", "user.email", "tester@example.com")
    workspace.set_params(SMALL)
    workspace.commit("start")
    return workspace


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """A fresh clone in which nothing has run."""
    return clone(tmp_path)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Workspace:
    """A clone in which the pipeline has run once, on digits; tests of experiments share it. Its path is not plain."""
    folder = tmp_path_factory.mktemp("digits") / "ein Klön"
    folder.mkdir()
    workspace = clone(folder)
    workspace.run("dvc", "repro")
    workspace.commit("run the pipeline")
    return workspace
