"""dvc.yaml names the code that each stage computes with, and the README draws the pipeline that it is."""

import itertools
import re
from pathlib import Path

import pytest
import yaml

from tests.imports import imports_of

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def modules_of(stage):
    """The modules in which a stage's result is computed: its recipe, or the folder of what needs none."""
    recipe = ROOT / "vitprune" / "recipes" / f"{stage}.py"
    if recipe.is_file():
        return [recipe]
    folder = {"download": "download", "clean": "cleaning"}[stage]
    return sorted((ROOT / "vitprune" / "data" / folder).glob("*.py"))


def modules_imported(path):
    for name, _ in imports_of(path):
        if name.startswith("vitprune."):
            base = ROOT.joinpath(*name.split("."))
            yield from (file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file())


def closure(paths):
    seen, waiting = set(), list(paths)
    while waiting:
        here = waiting.pop()
        if here not in seen:
            seen.add(here)
            waiting += modules_imported(here)
    return {module.relative_to(ROOT) for module in seen}


def computes(module):
    """Storage, and what is directly in vitprune/, reads, writes and refuses; DVC watches the params themselves."""
    in_component = len(module.parts) > 2 and module.parts[1] != "storage"
    return in_component and module.name not in ("__init__.py", "options.py")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_module_it_computes_with(stage):
    dependencies = tuple(STAGES[stage]["deps"])
    missing = [
        module.as_posix()
        for module in sorted(closure(modules_of(stage)))
        if computes(module) and not module.as_posix().startswith(dependencies)
    ]
    assert missing == []


@pytest.mark.parametrize("stage", STAGES)
def test_every_dependency_on_code_is_there_and_needed(stage):
    code = [path for path in STAGES[stage]["deps"] if path.startswith("vitprune/")]
    assert [path for path in code if not (ROOT / path).exists()] == []
    used = [module.as_posix() for module in closure(modules_of(stage))]
    assert [
        path
        for path in code
        if not any(map(path.__eq__, used)) and not any(module.startswith(f"{path}/") for module in used)
    ] == []


def drawn_edges():
    """From which stage to which the README draws an arrow."""
    (drawing,) = re.findall(r"```mermaid\nflowchart LR\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for line in drawing.splitlines():
        ends = [part.split("&") for part in re.split(r"-\.?->", line)]
        for senders, readers in itertools.pairwise(ends):
            yield from ((sender.strip(), reader.strip()) for sender in senders for reader in readers)


def test_the_readme_draws_the_pipeline():
    writer = {}
    for name, stage in STAGES.items():
        for output in stage.get("outs", []):
            writer[next(iter(output))] = name
    read = {(writer[path], name) for name, stage in STAGES.items() for path in stage["deps"] if path in writer}
    assert set(drawn_edges()) == read
