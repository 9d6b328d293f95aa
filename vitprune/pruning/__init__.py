"""Turning circuits into smaller models."""

from vitprune.pruning.compact import compact, dense_circuit, survivors_of

__all__ = ["compact", "dense_circuit", "survivors_of"]
