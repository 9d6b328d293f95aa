import subprocess
import sys

import pytest
import typer

from tests.run_command import assert_one_sentence, run_stage
from vitprune.cli import app

COMMANDS = typer.main.get_command(app).commands
SLOW_IMPORTS = (
    *("torch", "torchvision", "dvc", "kaggle", "sklearn", "pandas", "matplotlib"),
    *("timm", "onnx", "onnxruntime"),
)


def test_help_names_every_command_and_does_not_wait_for_heavy_imports():
    code = (
        "import sys; from vitprune.cli import main\n"
        "try: main()\n"
        "finally: print('imported:', *sorted(set(sys.modules) & set(sys.argv.pop().split(','))))"
    )
    command = [sys.executable, "-c", code, "--help", ",".join(SLOW_IMPORTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [name for name in COMMANDS if f" {name} " not in done.stdout] == []
    assert done.stdout.splitlines()[-1] == "imported:"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_each_of_its_options_is_explained(name):
    command = COMMANDS[name]
    assert command.help
    assert [parameter.name for parameter in command.params if not parameter.help] == []


def test_a_missing_params_file_is_one_sentence_and_status_1(tmp_path):
    assert_one_sentence(run_stage("train", tmp_path), "error: params.yaml: no such file")
