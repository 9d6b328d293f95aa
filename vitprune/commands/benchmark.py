"""``vitprune benchmark``: time any models side by side."""

from pathlib import Path
from typing import Annotated

import typer


def benchmark(
    models: Annotated[
        list[Path], typer.Argument(help="Model folders or .onnx files. The first is what the others are compared with.")
    ],
    batch_size: Annotated[list[int], typer.Option(min=1, help="May be given several times.")] = [1, 128],  # noqa: B006
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. PyTorch decides if not given.")] = None,
    device: Annotated[str, typer.Option(help="Device to run on: auto, cpu, cuda, cuda:N or mps.")] = "auto",
    warmup: Annotated[int, typer.Option(help="Passes of each model before the clock starts.")] = 5,
    rounds: Annotated[int, typer.Option(help="Rounds in which every model runs once.")] = 30,
    simplify: Annotated[
        bool, typer.Option("--simplify", help="Also time each model folder with its norms folded into the weights.")
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Also time each model folder through torch.compile.")
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also time each model folder in ONNX Runtime on the CPU.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="JSON file to write the figures to.")] = None,
) -> None:
    """Time models in turn, round by round, so that a disturbance hits all of them."""
    from vitprune.commands.terminal import show_table
    from vitprune.core.compute.device import pick_device, set_threads
    from vitprune.evaluation.benchmark import benchmark_machine, benchmark_table, load_entries, run_benchmark
    from vitprune.storage import check_targets, write_json

    check_targets(files=[] if json is None else [json])
    set_threads(threads)
    entries = load_entries(
        models, pick_device(device), simplify=simplify, compiled=compiled, onnx=onnx, threads=threads
    )
    times = run_benchmark(entries, batch_size, warmup=warmup, rounds=rounds)
    machine = benchmark_machine(entries)
    show_table(benchmark_table(times, machine, rounds))
    if json is not None:
        figures = {
            name: {f"batch_{size}": latency.as_metrics(size) for size, latency in latencies.items()}
            for name, latencies in times.items()
        }
        write_json(json, figures | {"machine": machine, "rounds": rounds, "warmup": warmup})
