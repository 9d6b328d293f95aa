"""The pipeline with several seeds: how far do its figures spread?

    python benchmarks/seeds.py --params params.yaml --seeds 5

Takes as long as the pipeline, times the number of seeds (digits: about three minutes each on two cores). The images and
their split are those of ``clean.seed``; what differs is the training (``compute.seed``). Each seed is kept in
benchmarks/.work/seeds, by its params and the commit of the library, so that a benchmark that was interrupted goes on
where it stopped. Writes a table to benchmarks/results/NAME_seeds.md, NAME being the data source. Test accuracies are
reported, nothing is chosen by them.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from vitprune.evaluation.models import MODELS

ROOT = Path(__file__).parents[1]
WORK = ROOT / "benchmarks" / ".work" / "seeds"


@dataclass(frozen=True)
class Run:
    """What one seed gave: the metrics of the evaluation, and how long training and everything took."""

    scores: dict
    timing: dict
    train_seconds: float
    all_seconds: float


STAGES = ("download", "clean", "train", "acdc", "prune", "finetune", "evaluate")


def run_pipeline(folder: Path, params: dict) -> Run:
    """Run the stages in a folder, save those that ran there before."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for stage in STAGES:
        seconds = folder / f"{stage}.seconds"
        if not seconds.exists():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=environment(), check=True)
            seconds.write_text(f"{time.perf_counter() - start:.2f}")
    scores, timing, train = (
        json.loads((folder / "metrics" / name).read_text())
        for name in ("evaluate.json", "timing.json", "train_timing.json")
    )
    all_seconds = sum(float((folder / f"{stage}.seconds").read_text()) for stage in STAGES)
    return Run(scores, timing, train["seconds"], all_seconds)


def folder_of(params: dict) -> Path:
    """Where the run with these params and this commit of the library is kept."""
    code = subprocess.run(
        ["git", "rev-parse", "HEAD:vitprune", "HEAD:stages"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    key = hashlib.sha256(f"{code}{json.dumps(params, sort_keys=True)}".encode()).hexdigest()[:12]
    return WORK / f"{params['data']['source']}-{params['compute']['seed']}-{key}"


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def table(results: list[Run], params: dict, seeds: range) -> str:
    machine = results[0].timing["machine"]
    batches = [f"batch_{size}" for size in params["evaluate"]["timing_batch_sizes"]]
    lines = [
        f"# {params['data']['source']}, seeds {seeds.start} to {seeds.stop - 1}",
        "",
        f"Mean ± standard deviation. {machine['device']}, {machine['threads']} threads, PyTorch {machine['torch']}, "
        f"Python {platform.python_version()}; prune.target_speedup {params['prune']['target_speedup']}, "
        f"{results[0].scores['test_images']} test images.",
        "",
        "| model | test loss | accuracy, % | " + " | ".join(f"speed-up, {b.replace('_', ' ')}" for b in batches) + " |",
        "| --- |" + " ---: |" * (2 + len(batches)),
    ]
    for model in (model.name for model in MODELS):
        cells = [
            spread([run.scores[model]["loss"] for run in results], 3),
            spread([100 * run.scores[model]["accuracy"] for run in results]),
            *(spread([run.timing[model][batch]["speedup"] for run in results]) for batch in batches),
        ]
        lines.append(f"| {model.replace('_', ' ')} | " + " | ".join(cells) + " |")
    gaps = [
        100 * (run.scores["upgraded_baseline_pruned"]["accuracy"] - run.scores["upgraded_baseline"]["accuracy"])
        for run in results
    ]
    kept = [run.scores["circuit"]["edges_kept"] for run in results]
    lines += [
        "",
        f"Pruned minus upgraded baseline, both fine-tuned: {spread(gaps)} points, seed by seed "
        f"{', '.join(f'{gap:+.2f}' for gap in gaps)}.",
        f"Seconds: {spread([run.train_seconds for run in results], 0)} for the steps of training the baseline, "
        f"{spread([run.all_seconds for run in results], 0)} for all stages.",
        f"Edges kept, seed by seed: {', '.join(map(str, kept))} of {results[0].scores['circuit']['edges']}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    params = yaml.safe_load(arguments.params.read_text())
    seeds = range(arguments.seeds)
    results = []
    for seed in seeds:
        params["compute"]["seed"] = seed
        results.append(run_pipeline(folder_of(params), params))
    target = ROOT / "benchmarks" / "results" / f"{params['data']['source']}_seeds.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(table(results, params, seeds))
    sys.stdout.write(target.read_text())


if __name__ == "__main__":
    main()
