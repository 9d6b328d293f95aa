"""ACDC against brute force, and against auto-circuit 1.0.1, on 6 layers, 4 heads, width 128: 1,108 edges.

    python benchmarks/discovery_speed.py --rival RIVAL_ENV/bin/python

Brute force is this package's own masked forward pass (which shares equal reads) for each edge that has a path to the
logits, in the same order and by the same rule; its edges must be the same. auto-circuit runs in an environment of its
own (benchmarks/rivals/auto_circuit_acdc.py says how to make it) on a transformer of the same size; without --rival it
is left out. All take turns. About ten minutes on two cores; writes benchmarks/results/discovery_speed.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from discovery_models import ROOT, machine, trained
from torch import Tensor

from vitprune.circuit import Ablation, Circuit, Graph, acdc
from vitprune.circuit.masked import run_masked
from vitprune.circuit.metrics import kl_divergence
from vitprune.model import ViT

RIVAL = ROOT / "benchmarks" / "rivals" / "auto_circuit_acdc.py"


@torch.no_grad()
def brute_force(model: ViT, images: Tensor, graph: Graph, ablation: Ablation, tau: float) -> Tensor:
    """The mask that ACDC keeps, with one masked forward pass of the whole circuit for each edge that is tested."""
    full = model(images)
    keep = graph.all_edges.clone()

    def kl() -> float:
        return kl_divergence(full, run_masked(model, images, graph, keep, ablation))

    current = kl()
    for row in reversed(range(len(graph.receivers))):
        node = graph.receivers[row].node
        is_live = node.kind == "logits" or bool(graph.reach_logits(keep)[graph.sender_index[node.name]])
        for column in reversed(keep[row].nonzero().flatten().tolist()):
            keep[row, column] = False
            if is_live:
                after = kl()
                if after - current < tau:
                    current = after
                else:
                    keep[row, column] = True
    return keep


def seconds_of(work, *arguments, **options) -> tuple[float, Circuit | Tensor]:
    start = time.perf_counter()
    result = work(*arguments, **options)
    return time.perf_counter() - start, result


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
    acdc(model, images, graph=graph, ablation=ablation, tau=1.0)
    lines = [
        "# ACDC: 6 layers, 4 heads, width 128, MLP 256, 50 tokens, 32 images",
        "",
        f"{machine()}. A model trained on digits, mean ablation. Ours: median of runs before and after each other.",
        "",
        "| τ | edges removed | ours, s | brute force, s | ratio | same edges |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    removed = 0
    for tau in arguments.taus:
        options = {"graph": graph, "ablation": ablation, "tau": tau}
        ours = [seconds_of(acdc, model, images, **options) for _ in range(arguments.repeats)]
        slow, keep = seconds_of(brute_force, model, images, graph, ablation, tau)
        ours += [seconds_of(acdc, model, images, **options) for _ in range(arguments.repeats)]
        fast, circuit = statistics.median(seconds for seconds, _ in ours), ours[0][1]
        same = "yes" if torch.equal(circuit.keep_mask, keep) else "NO"
        removed = removed or len(circuit.removed)
        lines.append(
            f"| {tau:g} | {len(circuit.removed)} of {len(graph.edges)} | {fast:.2f} | {slow:.1f} | "
            f"{slow / fast:.0f}× | {same} |"
        )
    if arguments.rival:
        options = {"graph": graph, "ablation": ablation, "tau": arguments.taus[0]}
        ours = [seconds_of(acdc, model, images, **options)[0] for _ in range(arguments.repeats)]
        rival = run_rival(arguments.rival, removed)
        ours += [seconds_of(acdc, model, images, **options)[0] for _ in range(arguments.repeats)]
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
