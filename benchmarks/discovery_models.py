"""The trained models that the discovery benchmarks share, and how their results are headed.

A model is trained once by the pipeline's own stages on scikit-learn's digits and kept in ``benchmarks/.work``.
"""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from vitprune.core.compute.device import describe_machine
from vitprune.core.model import ViT, load_model
from vitprune.core.packed import load_packed

ROOT = Path(__file__).parents[1]
WORK = ROOT / "benchmarks" / ".work"

SHAPES = {
    # 6 layers, 4 heads, width 128, MLP 256, 50 tokens: 1,108 edges
    "small": (
        {"image_size": 28},
        {"patch_size": 4, "d_model": 128, "num_layers": 6, "num_heads": 4, "d_mlp": 256},
        {"epochs": 30},
    ),
    # 12 layers, 8 heads, width 256, MLP 512, 65 tokens: 15,355 edges
    "large": (
        {"image_size": 32},
        {"patch_size": 4, "d_model": 256, "num_layers": 12, "num_heads": 8, "d_mlp": 512},
        {"epochs": 30, "learning_rate": 0.0005},
    ),
}


@dataclass(frozen=True)
class Trained:
    """A trained model, and normalised training images in the order of the packed file."""

    model: ViT
    images: Tensor
    labels: Tensor


def trained(name: str) -> Trained:
    """The model of that name; trained now (one and a half minutes, twenty for the large one) if it is not there yet."""
    folder = WORK / name
    if not (folder / "models" / "baseline").is_dir():
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        for section, changes in zip(("data", "model", "train"), SHAPES[name], strict=True):
            params[section] |= changes
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        for stage in ("download", "clean", "train"):
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            subprocess.run([sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=environment, check=True)
    saved = load_model(folder / "models" / "baseline")
    train = load_packed(folder / "data" / "clean").train
    images = saved.preprocessing(torch.from_numpy(train.images[:1024].copy()))
    return Trained(saved.model, images, torch.from_numpy(train.labels[:1024].copy()))


def machine() -> str:
    """Hardware and versions, for the head of a recorded result."""
    described = describe_machine(torch.device("cpu"))
    return (
        f"{described['device']}, {described['threads']} threads, PyTorch {described['torch']}, "
        f"Python {platform.python_version()}"
    )
