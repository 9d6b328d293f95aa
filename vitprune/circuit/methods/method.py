"""What a discovery method is: a name, the metrics that suit it, and a way from a problem to a circuit.

There are two kinds. A ``Ranking`` gives every edge a score; selecting edges by score, closing the circuit and measuring
it is the same for all rankings. A ``Searching`` method decides on edges one after another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from vitprune.circuit.circuit import Circuit
from vitprune.circuit.engine.phase import SearchProgress
from vitprune.circuit.metrics import MetricName
from vitprune.circuit.problem import Direction, DiscoveryOptions, Problem
from vitprune.circuit.ranking import circuit_of_scores
from vitprune.errors import CircuitError


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What follows a search: a callback for its progress, and a file for its decisions.

    With ``journal`` an interrupted search resumes from the decisions in that file. Rankings use neither.
    """

    on_progress: Callable[[SearchProgress], None] | None = None
    journal: Path | None = None


OnSample = Callable[[int, Tensor], None]
"""Called with the number of a sample and the mask ``(receivers, senders)`` of the circuit that is found on it."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A discovery method.

    ``metric`` is its default, None for a method that uses no metric. ``directions`` are those in which it can look.
    ``unsuitable`` has the metrics that it cannot use, each with the reason; in a reason, ``{section}`` stands for what
    precedes the names of params.
    """

    name: str
    metric: MetricName | None = "kl"
    directions: tuple[Direction, ...] = ("noising",)
    unsuitable: Mapping[str, str] = field(default_factory=dict)

    def run(self, problem: Problem, options: DiscoveryOptions, watch: Watch) -> Circuit:
        """The circuit of ``problem``; CircuitError for options that do not suit this method."""
        self.check(options)
        return self._run(problem, self.with_metric(options), watch)

    def run_on_samples(self, problem: Problem, options: DiscoveryOptions, samples: Tensor, on_sample: OnSample) -> None:
        """Find a circuit on each of several samples of the images, in no particular order.

        ``samples (samples, b)`` are how often each image of ``problem`` counts in each sample. Raises CircuitError as
        ``run`` does.
        """
        self.check(options)
        self._run_on_samples(problem, self.with_metric(options), samples, on_sample)

    def check(self, options: DiscoveryOptions, section: str = "") -> None:
        """CircuitError for options that do not suit this method; ``section`` precedes their names, as in ``acdc.``."""
        reason = self.unsuitable.get(options.metric or "")
        if reason is not None:
            reason = reason.format(section=section)
            raise CircuitError(f"{section}metric {options.metric} does not suit {section}method {self.name}: {reason}")
        if options.direction not in self.directions:
            raise CircuitError(
                f"{section}direction {options.direction} is for {section}method acdc; set it to noising for {self.name}"
            )
        self._check_size(options, section)

    def with_metric(self, options: DiscoveryOptions) -> DiscoveryOptions:
        """The same options with this method's default where they name no metric."""
        if self.metric is None:
            return replace(options, metric="kl")
        return options if options.metric else replace(options, metric=self.metric)

    @abstractmethod
    def _run(self, problem: Problem, options: DiscoveryOptions, watch: Watch, /) -> Circuit: ...

    def _run_on_samples(
        self, problem: Problem, options: DiscoveryOptions, samples: Tensor, on_sample: OnSample
    ) -> None:
        for number, counts in enumerate(samples):
            chosen = torch.arange(len(counts)).repeat_interleave(counts)
            on_sample(number, self._run(problem.on(chosen.tolist()), options, Watch()).keep_mask)

    @abstractmethod
    def _check_size(self, options: DiscoveryOptions, section: str) -> None:
        """CircuitError unless ``options`` say how large a circuit this method shall find."""


@dataclass(frozen=True, kw_only=True)
class Ranking(Method):
    """A method that scores every edge.

    ``scores`` gives them as ``(receivers, senders)``, 0 where there is no edge. The edges with an absolute score of at
    least ``tau``, or the ``num_edges`` with the highest, stay; the circuit is then closed. What takes a few passes
    ``is_quick``, and is compared with whatever is found.
    """

    scores: Callable[[Problem, DiscoveryOptions], Tensor]
    is_quick: bool = True

    def _run(self, problem: Problem, options: DiscoveryOptions, _: Watch, /) -> Circuit:
        count = len(problem.graph.edges)
        if options.num_edges is not None and options.num_edges > count:
            raise CircuitError(f"num_edges must be from 0 to {count}, got {options.num_edges}")
        assert options.metric is not None
        return circuit_of_scores(
            problem,
            self.scores(problem, options),
            method=self.name,
            metric=options.metric,
            tau=options.tau,
            num_edges=options.num_edges,
        )

    def _check_size(self, options: DiscoveryOptions, section: str) -> None:
        if (options.tau is None) == (options.num_edges is None):
            raise CircuitError(
                f"say what {self.name} keeps by either {section}tau or {section}num_edges; got {section}tau "
                f"{options.tau} and {section}num_edges {options.num_edges}"
            )


@dataclass(frozen=True, kw_only=True)
class Searching(Method):
    """A method that decides on one edge or node after another, by what its removal costs.

    ``search`` runs it; ``options.tau`` and ``options.metric`` are set. ``search_samples`` does what ``run_on_samples``
    says, for methods that can do better than one search after the other.
    """

    search: Callable[[Problem, DiscoveryOptions, Watch], Circuit]
    search_samples: Callable[[Problem, DiscoveryOptions, Tensor, OnSample], None] | None = None

    def _run(self, problem: Problem, options: DiscoveryOptions, watch: Watch, /) -> Circuit:
        return self.search(problem, options, watch)

    def _run_on_samples(
        self, problem: Problem, options: DiscoveryOptions, samples: Tensor, on_sample: OnSample
    ) -> None:
        run = self.search_samples or super()._run_on_samples
        run(problem, options, samples, on_sample)

    def _check_size(self, options: DiscoveryOptions, section: str) -> None:
        if options.num_edges is not None:
            raise CircuitError(
                f"{section}num_edges ({options.num_edges}) is for methods that rank edges; {self.name} goes by "
                f"{section}tau: set {section}num_edges to null"
            )
        if options.tau is None:
            raise CircuitError(f"{section}tau is missing: {self.name} keeps what costs at least that much to remove")
