"""Turning circuits, or a target of speed or KL, into smaller models."""

from vitprune.pruning.compact import compact, cut, dense_circuit, removed_parts, survivors_of

__all__ = ["compact", "cut", "dense_circuit", "removed_parts", "survivors_of"]
