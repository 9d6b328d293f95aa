"""What SECURITY.md says about calls that could run code holds for every line of the code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((*(ROOT / "vitprune").rglob("*.py"), *(ROOT / "stages").rglob("*.py")))

FORBIDDEN = {"eval", "exec", "pickle.load", "pickle.loads", "marshal.loads", "os.system", "Image.show", "unsafe_eval"}
REQUIRED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def calls_in(source: str) -> list[tuple[str, dict[str, object]]]:
    """The name of each function that is called, and those of its keyword arguments that are constants."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        (
            ast.unparse(call.func),
            {word.arg: word.value.value for word in call.keywords if word.arg and isinstance(word.value, ast.Constant)},
        )
        for call in calls
    ]


def faults_in(source: str) -> list[str]:
    faults = []
    for name, constants in calls_in(source):
        keyword, value = REQUIRED.get(name, ("", None))
        if name in FORBIDDEN or (keyword and constants.get(keyword, not value) is not value):
            faults.append(name)
    return faults


@pytest.mark.fault("a file of any kind holds code", "no call in the code could run it")
def test_no_call_runs_code_from_a_file():
    assert len(FILES) > 100
    assert {str(path): faults for path in FILES if (faults := faults_in(path.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    "source", ["eval('1')", "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(p, allow_pickle=True)"]
)
def test_such_calls_would_be_found(source):
    assert faults_in(source) != []
