import subprocess
import sys

COMMANDS = (
    *("download", "clean", "train", "acdc", "finetune", "evaluate"),
    *("table", "pareto", "show", "predict", "benchmark", "export"),
)
SLOW_IMPORTS = (
    *("torch", "torchvision", "dvc", "kaggle", "sklearn", "pandas", "matplotlib"),
    *("timm", "onnx", "onnxruntime"),
)


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "vitprune", *arguments], capture_output=True, text=True)


def test_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout


def test_help_does_not_wait_for_heavy_imports():
    code = "import sys, vitprune.cli; print(*sorted(set(sys.argv[1:]) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *SLOW_IMPORTS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_command_explains_its_options():
    for command in COMMANDS:
        assert "Usage: python -m vitprune" in run(command, "--help").stdout


def test_a_missing_params_file_is_one_sentence_and_status_1(tmp_path):
    done = run("train", "--params", str(tmp_path / "none.yaml"))
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'none.yaml'}: no such file; copy one from profiles/ or give --params\n"
