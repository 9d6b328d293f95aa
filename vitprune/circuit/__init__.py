"""The computational graph of a ViT, and the search for the part of it that matters."""

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.acdc import acdc
from vitprune.circuit.circuit import Circuit, Decision
from vitprune.circuit.graph import Edge, Graph

__all__ = ["Ablation", "Circuit", "Decision", "Edge", "Graph", "acdc"]
