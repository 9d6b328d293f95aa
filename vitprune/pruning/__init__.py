"""Turning circuits into smaller models."""

from vitprune.pruning.compact import compact, cut, dense_circuit, survivors_of
from vitprune.pruning.summary import describe_removal

__all__ = ["compact", "cut", "dense_circuit", "describe_removal", "survivors_of"]
