"""The Vision Transformer and its checkpoints."""

from vitprune.core.model.checkpoint import Preprocessing, SavedModel, load_model, save_model, write_model
from vitprune.core.model.config import ViTConfig
from vitprune.core.model.vit import ViT

__all__ = ["Preprocessing", "SavedModel", "ViT", "ViTConfig", "load_model", "save_model", "write_model"]
