"""vitprune: prune Vision Transformers by automated circuit discovery."""

__version__ = "0.1.0"
