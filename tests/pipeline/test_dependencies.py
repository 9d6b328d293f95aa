"""dvc.yaml names every module that a stage computes with, so that no result is older than its code."""

from pathlib import Path

import pytest
import yaml

from tests.imports import imports_of

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# What these do cannot change a result: they read, write, show and refuse.
NOT_COMPUTING = (
    "vitprune/__init__.py",
    "vitprune/config.py",
    "vitprune/options.py",
    "vitprune/errors.py",
    "vitprune/storage.py",
    "vitprune/device.py",
    "vitprune/launch.py",
    "vitprune/commands/__init__.py",
    "vitprune/commands/options.py",
    "vitprune/commands/terminal.py",
    "vitprune/data/__init__.py",
    "stages/__init__.py",
)
# Editing a picture must not train again.
DRAWING = {"train": ("vitprune/report/",)}
# Sources know how to open what they fetched, which is no part of fetching it.
OPENING = {"download": ("vitprune/data/collection.py", "vitprune/data/decode.py", "vitprune/data/packed.py")}


def modules_imported(path):
    for name, _ in imports_of(path):
        if name.startswith(("vitprune.", "stages.")):
            base = ROOT.joinpath(*name.split("."))
            yield from (file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file())


def closure(path):
    seen, waiting = set(), [path]
    while waiting:
        here = waiting.pop()
        if here not in seen:
            seen.add(here)
            waiting += modules_imported(here)
    return {module.relative_to(ROOT).as_posix() for module in seen}


def is_params(module):
    """DVC watches the params themselves."""
    package = module.rpartition("/")[0]
    return module.endswith("/options.py") or module == f"{package}/__init__.py"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_module_it_computes_with(stage):
    dependencies = tuple(STAGES[stage]["deps"])
    exempt = NOT_COMPUTING + DRAWING.get(stage, ()) + OPENING.get(stage, ())
    missing = [
        module
        for module in sorted(closure(ROOT / "stages" / f"{stage}.py"))
        if not module.startswith(dependencies) and not module.startswith(exempt) and not is_params(module)
    ]
    assert missing == []


@pytest.mark.parametrize("stage", STAGES)
def test_every_dependency_on_code_is_there(stage):
    code = [path for path in STAGES[stage]["deps"] if path.startswith(("stages/", "vitprune/"))]
    assert [path for path in code if not (ROOT / path).exists()] == []
