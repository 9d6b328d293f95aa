"""One ACDC search for each of several samples of the images, with the work that they have in common done once.

All samples begin with one search, which computes the metric of every image once and takes its mean over each sample.
Where samples disagree about an edge or a node, the search goes on with the larger part; the others begin a search of
their own from there, on the images that they have. Every sample ends with the circuit that a search on it alone finds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vitprune.circuit.circuit import Decision
from vitprune.circuit.engine.known import Prefix
from vitprune.circuit.engine.run import evaluator_of
from vitprune.circuit.engine.search import Search
from vitprune.circuit.problem import DiscoveryOptions, Problem
from vitprune.core.compute.distributed import world

_Branch = tuple[list[Decision], Tensor]
"""Decisions with which a search begins, and the samples that have taken them."""


def search_samples(
    problem: Problem, options: DiscoveryOptions, samples: Tensor, on_sample: Callable[[int, Tensor], None]
) -> None:
    """Call ``on_sample`` with the number of each sample and the mask ``(receivers, senders)`` that ACDC keeps on it.

    ``samples (samples, b)`` are how often each image counts in each sample. ``options`` have a tau, a metric and
    one direction. Samples come in no particular order. Raises CircuitError as ``IncrementalEvaluator`` does.
    """
    branches: list[_Branch] = [([], torch.arange(len(samples)))]
    while branches:
        # The branch that was put off last shares the least with the others; so few of them wait at a time.
        decisions, members = branches.pop()
        shown = samples[members].any(dim=0).nonzero().flatten()
        if len(shown) < world().size:
            # Each rank needs an image; some then count in no sample.
            shown = torch.arange(samples.shape[1])
        evaluator = evaluator_of(problem.on(shown.tolist()), options, samples=samples[members][:, shown])
        search = Search(evaluator, options, Prefix(decisions), on_split=partial(_put_off, branches, members))
        search.run()
        for member in members[search.following].tolist():
            on_sample(member, evaluator.keep_mask)


def _put_off(branches: list[_Branch], members: Tensor, decisions: list[Decision], leaving: Tensor) -> None:
    """Put off those of ``members`` with the numbers ``leaving``, which go on from ``decisions``."""
    branches.append((decisions, members[leaving]))
