"""Small data, a small model, and params that suit them."""

from pathlib import Path

import pytest
import torch
import yaml

from tests.training.conftest import NO_AUGMENTATION, PREPROCESSING, random_split, tiny_model
from vitprune.core.model import SavedModel
from vitprune.core.packed import PackedData
from vitprune.params import parse_params

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c", "d")
CONTENT = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
SMALL = {
    "model": {"patch_size": 4, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_mlp": 32},
    "train": {
        "epochs": 2,
        "warmup_epochs": 0,
        "batch_size": 16,
        "optimizer": "adamw",
        "augment": NO_AUGMENTATION.model_dump(),
    },
    "acdc": {"num_images": 16, "num_reference_images": 16, "mlp_groups": 2, "tau": 1e-4, "bootstrap_samples": 3},
    "prune": {
        "target_speedup": None,
        "num_images": 16,
        "num_fold_images": 16,
        "timing_batch_size": 2,
        "timing_rounds": 5,
    },
    "finetune": {"epochs": 1, "warmup_epochs": 0},
    "evaluate": {"batch_size": 8, "timing_batch_sizes": [1, 2], "timing_rounds": 5, "timing_warmup": 1},
}
OPTIONS = parse_params({section: values | SMALL.get(section, {}) for section, values in CONTENT.items()})


@pytest.fixture(scope="session")
def packed():
    splits = {"train": random_split(48), "val": random_split(16, 1), "test": random_split(16, 2)}
    return PackedData(**splits, class_names=CLASSES, mean=(0.5,), std=(0.3,))


@pytest.fixture(scope="session")
def baseline(packed):
    """A model with weights large enough for its parts to matter."""
    model = tiny_model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return SavedModel(model=model, preprocessing=PREPROCESSING, class_names=packed.class_names)
