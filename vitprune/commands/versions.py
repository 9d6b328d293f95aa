"""What a run was made with: commit, packages, machine."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

CODE = ("params.yaml", "dvc.yaml", "stages", "vitprune")
PACKAGES = ("vitprune", "torch", "torchvision", "dvc", "numpy")


def versions(machine: Mapping[str, Any]) -> dict[str, str]:
    """Commit, machine and versions by name, as of now; the commit is empty outside of a git repository."""
    return {
        "commit": _commit(),
        "machine": f"{machine['device']}, {machine['threads']} threads, {platform.system()}",
        "Python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def _commit() -> str:
    """The commit that is checked out, with a word if code or params differ from it; empty if git does not know.

    What a run writes differs from what the run before wrote, which says nothing about the code.
    """
    try:
        told = [
            subprocess.run(["git", *command], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for command in (
                ["rev-parse", "--short=12", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no", "--", *CODE],
            )
        ]
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{told[0]}, with changes" if told[1] else told[0]
