"""``vitprune benchmark``: the inference time of any models, side by side."""

from pathlib import Path
from typing import Annotated

import typer


def benchmark(
    models: Annotated[
        list[Path], typer.Argument(help="Model folders or .onnx files; the others are compared with the first.")
    ],
    batch_size: Annotated[list[int], typer.Option(min=1, help="May be given several times.")] = [1, 128],  # noqa: B006
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; PyTorch's choice if not given.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    warmup: Annotated[int, typer.Option(help="Passes before the clock starts.")] = 5,
    rounds: Annotated[int, typer.Option(help="Rounds in which all models take turns.")] = 30,
    simplify: Annotated[
        bool, typer.Option("--simplify", help="Time each model folder with its norms folded into the weights, too.")
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Time each model folder through torch.compile, too.")
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Time each model folder in ONNX Runtime on the CPU, too.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="JSON file to write the figures to.")] = None,
) -> None:
    """Time models in turn, round by round, so that what disturbs one disturbs all."""
    from vitprune.commands.terminal import show_table
    from vitprune.device import describe_machine, pick_device, set_threads
    from vitprune.evaluation.contest import contest_table, enter, hold
    from vitprune.storage import check_targets, write_json

    check_targets(files=[] if json is None else [json])
    place = pick_device(device)
    set_threads(threads)
    entries = enter(models, place, is_simplified=simplify, is_compiled=compiled, with_onnx=onnx, threads=threads)
    times = hold(entries, batch_size, warmup=warmup, rounds=rounds)
    machine = describe_machine(place)
    show_table(contest_table(times, machine, rounds))
    if json is not None:
        figures = {
            name: {f"batch_{size}": latency.as_metrics(size) for size, latency in found.items()}
            for name, found in times.items()
        }
        write_json(json, figures | {"machine": machine, "rounds": rounds, "warmup": warmup})
