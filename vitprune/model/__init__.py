"""The Vision Transformer and its checkpoints."""

from vitprune.model.checkpoint import Preprocessing, SavedModel, load_model, save_model
from vitprune.model.vit import ViT, ViTConfig

__all__ = ["Preprocessing", "SavedModel", "ViT", "ViTConfig", "load_model", "save_model"]
