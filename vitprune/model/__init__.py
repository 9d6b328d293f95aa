"""The Vision Transformer and its checkpoints."""

from vitprune.model.checkpoint import Preprocessing, SavedModel, load_model, save_model
from vitprune.model.config import ViTConfig
from vitprune.model.vit import ViT

__all__ = ["Preprocessing", "SavedModel", "ViT", "ViTConfig", "load_model", "save_model"]
