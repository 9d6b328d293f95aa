"""ACDC against brute force, and against auto-circuit 1.0.1, on 6 layers, 4 heads, width 128: 1,108 edges.

    python benchmarks/discovery_speed.py --rival RIVAL_ENV/bin/python

Brute force is a masked forward pass, in which every receiver reads a stream of its own, for every edge, in the same
order and by the same rule. The sharp brute force skips edges without a path to the logits, as this package does, and
uses its masked forward pass, in which receivers that keep the same senders share what they read. Both must find the
same edges. auto-circuit runs in an environment of its own (benchmarks/rivals/auto_circuit_acdc.py says how to make it)
on a transformer of the same size; without --rival it is left out. All take turns. About a quarter of an hour on two
cores; writes benchmarks/results/discovery_speed.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from discovery_models import ROOT, machine, trained
from torch import Tensor

from vitprune.circuit import Ablation, Graph, discover
from vitprune.circuit.levels import Levels, centred
from vitprune.circuit.masked import read_streams, run_masked
from vitprune.circuit.metrics import kl_divergence
from vitprune.core.model import ViT

RIVAL = ROOT / "benchmarks" / "rivals" / "auto_circuit_acdc.py"


Forward = Callable[[Tensor], Tensor]
"""Logits of the circuit that keeps the edges of a mask."""


class MaskedForward:
    """The circuit's forward pass as it is defined: every receiver sums up what it reads."""

    def __init__(self, model: ViT, images: Tensor, graph: Graph, ablation: Ablation) -> None:
        self.model, self.graph, self.levels = model, graph, Levels(model, graph)
        self.embedding = centred(model.embed(images))
        self.removed = self.levels.send_all(self.levels.by_level(ablation.activations(model, images, 0)))

    def __call__(self, keep: Tensor) -> Tensor:
        graph, levels = self.graph, self.levels
        writes = self.embedding.new_empty(len(graph.senders), *self.embedding.shape)
        writes[0] = self.embedding
        for level in range(1, graph.last_level):
            rows, columns = graph.level_receivers[level], graph.level_senders[level]
            streams = read_streams(levels, level, keep[rows.start : rows.stop], writes, self.removed)
            sent = levels.send(level, levels.activate(level, levels.project(level, streams, torch.arange(len(rows)))))
            writes[columns.start : columns.stop, :, : sent.shape[2]] = sent
        last = read_streams(levels, graph.last_level, keep[-1:], writes, self.removed)
        return self.model.classify(last[0])


@torch.no_grad()
def brute_force(forward: Forward, full: Tensor, graph: Graph, tau: float, skip_dead: bool) -> Tensor:
    """The mask that ACDC keeps, with one masked forward pass for each edge that is tested."""
    keep = graph.all_edges.clone()
    current = kl_divergence(full, forward(keep))
    for row in reversed(range(len(graph.receivers))):
        node = graph.receivers[row].node
        is_live = node.kind == "logits" or bool(graph.reach_logits(keep)[graph.sender_index[node.name]])
        for column in reversed(keep[row].nonzero().flatten().tolist()):
            keep[row, column] = False
            if is_live or not skip_dead:
                after = kl_divergence(full, forward(keep))
                if after - current < tau:
                    current = after
                else:
                    keep[row, column] = True
    return keep


def timed(work: Callable[[float], Tensor], tau: float) -> tuple[float, Tensor]:
    start = time.perf_counter()
    found = work(tau)
    return time.perf_counter() - start, found


def run_rival(python: str, removed: int) -> dict:
    command = [python, str(RIVAL), "--remove", str(removed)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", help="python of the environment that auto-circuit is installed in")
    parser.add_argument("--taus", type=float, nargs="+", default=[1e-3, 1e-4])
    parser.add_argument("--repeats", type=int, default=3, help="of ours, around each run of the others")
    arguments = parser.parse_args()
    given = trained("small")
    model, images = given.model, given.images[:32]
    graph, ablation = Graph.of(model), Ablation.mean(model, given.images[:256])
    discover(model, images, graph=graph, ablation=ablation, tau=1.0)
    with torch.no_grad():
        full, plain = model(images), MaskedForward(model, images, graph, ablation)
    works = {
        "ours": lambda tau: discover(model, images, graph=graph, ablation=ablation, tau=tau).keep_mask,
        "sharp": lambda tau: brute_force(
            lambda keep: run_masked(model, images, graph, keep, ablation, 0), full, graph, tau, skip_dead=True
        ),
        "brute": lambda tau: brute_force(plain, full, graph, tau, skip_dead=False),
    }
    lines = [
        "# ACDC: 6 layers, 4 heads, width 128, MLP 256, 50 tokens, 32 images",
        "",
        f"{machine()}. A model trained on digits, mean ablation. Ours: median of {3 * arguments.repeats} runs before, "
        "between and after the others.",
        "",
        "| τ | edges removed | ours, s | brute force, s | ratio | sharp brute force, s | ratio | same edges |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    removed = 0
    for tau in arguments.taus:
        seconds: dict[str, list[float]] = {name: [] for name in works}
        masks: dict[str, Tensor] = {}
        for name in ("ours", "sharp", "ours", "brute", "ours"):
            for _ in range(arguments.repeats if name == "ours" else 1):
                spent, masks[name] = timed(works[name], tau)
                seconds[name].append(spent)
        fast, sharp, slow = (statistics.median(seconds[name]) for name in ("ours", "sharp", "brute"))
        same = all(torch.equal(mask, masks["ours"]) for mask in masks.values())
        count = len(graph.edges) - int(masks["ours"].sum())
        removed = removed or count
        lines.append(
            f"| {tau:g} | {count} of {len(graph.edges)} | {fast:.2f} | {slow:.0f} | {slow / fast:.0f}× | {sharp:.1f} | "
            f"{sharp / fast:.0f}× | {'yes' if same else 'NO'} |"
        )
    if arguments.rival:
        ours = [timed(works["ours"], arguments.taus[0])[0] for _ in range(arguments.repeats)]
        rival = run_rival(arguments.rival, removed)
        ours += [timed(works["ours"], arguments.taus[0])[0] for _ in range(arguments.repeats)]
        fast, slow = statistics.median(ours), statistics.median(rival["seconds"])
        lines += [
            "",
            f"auto-circuit {rival['auto_circuit']} (transformer-lens {rival['transformer_lens']}, PyTorch "
            f"{rival['torch']}, {rival['threads']} threads) on a transformer of the same size with random weights, "
            f"at a τ that removes {rival['removed']} of {rival['edges']} edges: {slow:.1f} s; ours, in between, "
            f"{fast:.2f} s: {slow / fast:.0f}×.",
        ]
    target = ROOT / "benchmarks" / "results" / "discovery_speed.md"
    target.write_text("\n".join(lines) + "\n")
    sys.stdout.write(target.read_text())


if __name__ == "__main__":
    main()
