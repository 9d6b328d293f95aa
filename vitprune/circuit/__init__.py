"""The computational graph of a ViT, and the search for the part of it that matters."""

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.circuit import Circuit, Decision
from vitprune.circuit.discovery import discover
from vitprune.circuit.graph import Edge, Graph
from vitprune.circuit.methods import METHODS

__all__ = ["METHODS", "Ablation", "Circuit", "Decision", "Edge", "Graph", "discover"]
