"""Imports run downward only."""

from pathlib import Path

from tests.imports import imports_of

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"errors", "options"},
    {"storage"},
    {"core.compute", "core.packed"},
    {"core.model"},
    {"data"},
    {"circuit", "pretrained"},
    {"training", "pruning", "export"},
    {"evaluation"},
    {"report"},
    {"recipes"},
    {"params"},
    {"commands"},
    {"cli", "stages"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def layered(parts):
    """The part of the project that a module's name belongs to, as LAYERS calls it."""
    if parts[0] == "stages":
        return "stages"
    return ".".join(parts[1:3]) if parts[1] == "core" else parts[1]


def part_of(path):
    return layered(path.relative_to(ROOT).with_suffix("").parts)


def imported_parts(path):
    for name, line in imports_of(path):
        parts = name.split(".")
        if parts[0] in ("vitprune", "stages") and len(parts) > 1:
            yield layered(parts), line


def modules():
    return [
        path
        for folder in ("vitprune", "stages")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name != "__init__.py" or path.parent.name not in ("vitprune", "core")
    ]


def test_every_part_has_a_layer():
    assert {part_of(path) for path in modules()} <= set(RANK)


def test_imports_run_downward_only():
    upward = []
    for path in modules():
        mine = part_of(path)
        for other, line in imported_parts(path):
            if other in RANK and other != mine and RANK[other] >= RANK[mine]:
                upward.append(f"{path.relative_to(ROOT)}:{line} ({mine}) imports {other}")
    assert upward == []


def test_benchmarks_use_recipes_and_never_commands():
    uses = {name for path in (ROOT / "benchmarks").rglob("*.py") for name, _ in imports_of(path)}
    assert not [name for name in uses if name.startswith("vitprune.commands")]
