"""The computational graph of a ViT, and the search for the part of it that matters."""

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.acdc import acdc
from vitprune.circuit.activation_baseline import activation
from vitprune.circuit.circuit import Circuit, Decision
from vitprune.circuit.eap import eap
from vitprune.circuit.eap_ig import eap_ig
from vitprune.circuit.graph import Edge, Graph
from vitprune.circuit.hybrid import hybrid
from vitprune.circuit.random_baseline import random

__all__ = [
    "Ablation",
    "Circuit",
    "Decision",
    "Edge",
    "Graph",
    "acdc",
    "activation",
    "eap",
    "eap_ig",
    "hybrid",
    "random",
]
