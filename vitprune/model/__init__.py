"""The Vision Transformer, its checkpoints, and the ViTs of other libraries that it can start from."""

from vitprune.model.checkpoint import Preprocessing, SavedModel, load_model, save_model
from vitprune.model.from_timm import from_timm
from vitprune.model.from_torchvision import from_torchvision
from vitprune.model.pretrained import load_pretrained
from vitprune.model.vit import ViT, ViTConfig

__all__ = [
    "Preprocessing",
    "SavedModel",
    "ViT",
    "ViTConfig",
    "from_timm",
    "from_torchvision",
    "load_model",
    "load_pretrained",
    "save_model",
]
