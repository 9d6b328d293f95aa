"""How long does auto-circuit's ACDC take on a transformer of the size of ours?

    python3.11 -m venv rival-env
    rival-env/bin/pip install -r benchmarks/rivals/auto_circuit_requirements.txt
    rival-env/bin/python benchmarks/rivals/auto_circuit_acdc.py --remove 900

About two minutes on two idle cores with ``--tau``, three with ``--remove``; needs nothing of vitprune and no network.

The model is a HookedTransformer with random weights, 6 layers of 4 heads, d_model 128 and 50 positions: 1,108 edges.
Its attention is bidirectional, as a Vision Transformer's is. The 32 clean and 32 corrupt prompts are random; the
KL divergence is taken at the last position. What is timed is one whole call of ``acdc_prune_scores`` with one τ.

auto-circuit evaluates every edge with one forward pass that starts in the receiver's block, so its time depends on
neither the weights nor τ; ``--remove N`` is there to compare searches that come to similar circuits. τ for it is sought
with the same weights on a few of the prompts. Progress bars go to stderr; the last line of stdout is one JSON object.
"""

import argparse
import json
import math
import platform
import sys
import time
from importlib.metadata import version

import torch
from auto_circuit.data import PromptDataLoader, PromptDataset
from auto_circuit.prune_algos.ACDC import acdc_prune_scores
from auto_circuit.utils.graph_utils import patchable_model
from auto_circuit.utils.patchable_model import PatchableModel
from transformer_lens import HookedTransformer, HookedTransformerConfig

SEED = 0
VOCABULARY = 64
POSITIONS = 50
PROMPTS = 32
PROBE_PROMPTS = 4
PROBES = 8
TOLERANCE = 0.05
# As initialised, half of the edges move the KL by less than 1e-5, which is too close to what float32 rounds off.
LOGIT_SCALE = 4.0


def build_model(layers: int) -> PatchableModel:
    config = HookedTransformerConfig(
        n_layers=layers,
        n_heads=4,
        d_model=128,
        d_head=32,
        d_mlp=256,
        n_ctx=POSITIONS,
        d_vocab=VOCABULARY,
        act_fn="gelu",
        normalization_type="LN",
        attention_dir="bidirectional",
        # The three that auto-circuit needs to tell the edges apart.
        use_attn_result=True,
        use_split_qkv_input=True,
        use_hook_mlp_in=True,
        seed=SEED,
        device="cpu",
    )
    transformer = HookedTransformer(config).eval().requires_grad_(False)
    transformer.unembed.W_U.mul_(LOGIT_SCALE)
    model = patchable_model(
        transformer, factorized=True, slice_output="last_seq", separate_qkv=True, device=torch.device("cpu")
    )
    # auto-circuit sorts the edges by the receiver's layer and leaves the rest to the order of a set, which differs from
    # one process to the next. Its sort is stable, so this fixes the rest: receiver by receiver, latest sender first.
    model.edges = sorted(model.edges, key=lambda edge: (edge.dest.name, -edge.src.src_idx))
    return model


def build_loader(prompts: int) -> PromptDataLoader:
    """One batch of the first ``prompts`` of the clean and corrupt prompts."""
    generator = torch.Generator().manual_seed(SEED)
    clean, corrupt = torch.randint(VOCABULARY, (2, PROMPTS, POSITIONS), generator=generator)[:, :prompts]
    unused_answers = [torch.zeros(1, dtype=torch.long)] * prompts
    dataset = PromptDataset(clean, corrupt, unused_answers, unused_answers)
    return PromptDataLoader(dataset, seq_len=None, diverge_idx=0, batch_size=prompts, shuffle=False)


def run_acdc(model: PatchableModel, loader: PromptDataLoader, tau: float) -> tuple[int, float]:
    """The number of removed edges and the seconds of one search."""
    start = time.perf_counter()
    scores = acdc_prune_scores(model, loader, None, tao_exps=[0], tao_bases=[tau], faithfulness_target="kl_div")
    seconds = time.perf_counter() - start
    return sum(int(score.isfinite().sum()) for score in scores.values()), seconds


def find_tau(model: PatchableModel, remove: int) -> float:
    """A τ that removes about ``remove`` edges: bisection of log τ on a few prompts."""
    # So few prompts gain nothing from more threads, and lose much if another process has one of the cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loader = build_loader(PROBE_PROMPTS)
    low, high = 1e-6, 1.0
    best_tau, best_gap = low, math.inf
    for _ in range(PROBES):
        tau = math.sqrt(low * high)
        removed, seconds = run_acdc(model, loader, tau)
        sys.stdout.write(f"probe with {PROBE_PROMPTS} prompts: tau {tau:.3g} removes {removed} ({seconds:.1f} s)\n")
        sys.stdout.flush()
        if abs(removed - remove) < best_gap:
            best_tau, best_gap = tau, abs(removed - remove)
        if best_gap <= TOLERANCE * remove:
            break
        low, high = (tau, high) if removed < remove else (low, tau)
    torch.set_num_threads(threads)
    return best_tau


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    threshold = parser.add_mutually_exclusive_group(required=True)
    threshold.add_argument("--remove", type=int, help="find a tau that removes about this many edges")
    threshold.add_argument("--tau", type=float)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--layers", type=int, default=6, help="fewer for a quick try")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    model = build_model(arguments.layers)
    sys.stdout.write(f"edges: {model.n_edges}\n")
    tau = find_tau(model, arguments.remove) if arguments.tau is None else arguments.tau
    loader = build_loader(PROMPTS)
    runs = [run_acdc(model, loader, tau) for _ in range(arguments.repeats)]
    result = {
        "edges": model.n_edges,
        "removed": runs[0][0],
        "tau": tau,
        "seconds": [round(seconds, 2) for _, seconds in runs],
        "auto_circuit": version("auto-circuit"),
        "transformer_lens": version("transformer-lens"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": arguments.threads,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
