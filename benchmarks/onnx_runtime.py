"""The exported pruned model in ONNX Runtime against the exported baseline: what pruning is worth outside PyTorch.

    dvc repro && python benchmarks/onnx_runtime.py

Takes a minute. Both models of the last run are exported, checked to give the logits of the originals, and timed in
turn. Writes a table to benchmarks/results/NAME_onnx_runtime.md, NAME being the data source.
"""

import sys
import tempfile
from pathlib import Path

import onnxruntime
import torch

from vitprune.core.model import load_model
from vitprune.evaluation.benchmark import benchmark_machine, benchmark_table, load_entries, run_benchmark
from vitprune.export import export_onnx
from vitprune.params import load_params
from vitprune.report.markdown import to_markdown

ROOT = Path(__file__).parents[1]
BATCH_SIZES = (1, 8, 128)
WARMUP, ROUNDS = 20, 200
MODELS = {"baseline": "models/baseline", "pruned": "models/finetuned/pruned"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in MODELS}
        differences = {name: export_onnx(load_model(ROOT / path), files[name]) for name, path in MODELS.items()}
        options = {"simplify": False, "compiled": False, "onnx": False, "threads": None}
        entries = load_entries(list(files.values()), torch.device("cpu"), **options)
        times = run_benchmark(entries, BATCH_SIZES, warmup=WARMUP, rounds=ROUNDS)
        named = {name: times[str(file)] for name, file in files.items()}
    source = load_params(ROOT / "params.yaml").data.source
    largest = ", ".join(f"{name} {difference:.0e}" for name, difference in differences.items())
    target = ROOT / "benchmarks" / "results" / f"{source}_onnx_runtime.md"
    target.write_text(
        f"# {source}: exported to ONNX Runtime {onnxruntime.__version__}\n\n"
        f"{to_markdown(benchmark_table(named, benchmark_machine(entries), ROUNDS))}\n"
        f"Largest difference from the logits in PyTorch, relative to the largest logit: {largest}.\n"
    )
    sys.stdout.write(target.read_text())


if __name__ == "__main__":
    main()
