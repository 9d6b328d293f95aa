"""ACDC on 12 layers × 8 heads × width 256 with all 15,355 edges: what does it cost in plain forward passes?

    python benchmarks/discovery_scale.py --tau 1e-6
    python benchmarks/discovery_scale.py --memory

Takes about half an hour on two cores, and twenty minutes more when the model is not trained yet. Plain forward passes
of the same batch are timed in the same process, before, during and after the search. Writes
benchmarks/results/discovery_scale.md. The second line searches on 256 images of which 64 are held at once, stops after
100 tests, since a search holds most at its beginning, and adds the peak memory of the process to that file.
"""

import argparse
import resource
import statistics
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import torch
from discovery_models import ROOT, Trained, machine, trained

from vitprune.circuit import Ablation, Graph, discover
from vitprune.circuit.engine.phase import SearchProgress

SECONDS_BETWEEN_FORWARDS = 30.0


class ForwardClock:
    """Times plain forward passes, and takes them out of the search's time."""

    def __init__(self, model: torch.nn.Module, images: torch.Tensor) -> None:
        self.model, self.images = model, images
        self.seconds: list[float] = []
        self.spent = 0.0
        self.last = time.perf_counter()

    @torch.inference_mode()
    def measure(self, passes: int = 3) -> None:
        start = time.perf_counter()
        for _ in range(passes):
            begin = time.perf_counter()
            self.model(self.images)
            self.seconds.append(time.perf_counter() - begin)
        self.last = time.perf_counter()
        self.spent += self.last - start

    def on_progress(self, progress: SearchProgress) -> None:
        if time.perf_counter() - self.last > SECONDS_BETWEEN_FORWARDS:
            self.measure()
            sys.stderr.write(f"{progress}\n")


def peak_memory() -> float:
    """In GB, of the whole process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure_memory(given: Trained, output: Path) -> None:
    images, batch_size, tests = given.images[:256], 64, 100

    class Enough(Exception):
        pass

    def stop(progress: SearchProgress) -> None:
        if progress.decided >= tests:
            raise Enough

    with suppress(Enough):
        discover(given.model, images, tau=1e-6, batch_size=batch_size, on_progress=stop)
    line = f"With {len(images)} images, {batch_size} held at once, the peak memory is {peak_memory():.1f} GB."
    output.write_text(f"{output.read_text()}\n{line}\n")
    sys.stdout.write(f"{line}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tau", type=float, default=1e-6)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "discovery_scale.md")
    arguments = parser.parse_args()
    given = trained("large")
    if arguments.memory:
        measure_memory(given, arguments.output)
        return
    model, images = given.model, given.images[: arguments.images]
    ablation, graph = Ablation.mean(model, given.images[:256]), Graph.of(model)
    clock = ForwardClock(model, images)
    clock.measure(10)
    clock.spent = 0.0
    start = time.perf_counter()
    circuit = discover(model, images, graph=graph, ablation=ablation, tau=arguments.tau, on_progress=clock.on_progress)
    seconds = time.perf_counter() - start - clock.spent
    clock.measure(10)
    forward = statistics.median(clock.seconds)
    actions = Counter(decision.action for decision in circuit.trace)
    edges, kept = len(graph.edges), len(circuit.kept)
    lines = [
        "# ACDC on 12 layers, 8 heads, width 256, MLP 512, 65 tokens",
        "",
        f"{machine()}. {len(images)} images of digits, a model trained on digits of 32×32 pixels, mean ablation, "
        f"edges, τ = {arguments.tau:g}, one run.",
        "",
        "| | |",
        "| --- | ---: |",
        f"| edges | {edges:,} |",
        f"| removed | {edges - kept:,} ({100 * (1 - kept / edges):.1f} %) |",
        f"| tested | {actions['removed'] + actions['kept']:,} |",
        f"| removed without a test (no path to the logits) | {actions['unreachable']:,} |",
        f"| KL(full ‖ circuit) | {circuit.kl:.3g} nats |",
        f"| seconds of the search | {seconds:,.0f} |",
        f"| seconds of a plain forward pass of the same batch (median of {len(clock.seconds)}, spread over the run) | "
        f"{forward:.3f} |",
        f"| **plain forward passes that the search costs** | **{seconds / forward:,.0f}** |",
        f"| forward passes that brute force takes, each of them masked | {edges:,} |",
        f"| peak memory of the process | {peak_memory():.1f} GB |",
    ]
    arguments.output.write_text("\n".join(lines) + "\n")
    sys.stdout.write(arguments.output.read_text())


if __name__ == "__main__":
    main()
