"""Imports run downward only."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"errors"},
    {"config"},
    {"storage", "device"},
    {"data"},
    {"model"},
    {"circuit"},
    {"training", "pruning"},
    {"evaluation"},
    {"report"},
    {"commands"},
    {"cli", "stages"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def part_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "stages" if parts[0] == "stages" else parts[1]


def imported_parts(path):
    """Parts of the project that a module imports when it runs; what only type checkers see does not count."""
    tree = ast.parse(path.read_text("utf-8"))
    unseen = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in unseen:
            continue
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] in ("vitprune", "stages") and len(parts) > 1:
                yield "stages" if parts[0] == "stages" else parts[1], node.lineno


def modules():
    return [
        path
        for folder in ("vitprune", "stages")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != ROOT / "vitprune" / "__init__.py"
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
