"""``vitprune report``: the page that shows a run and recomputes it, and pictures of the circuit and of what is left."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from vitprune.commands.options import CircuitFolder, DataFolder, ParamsFile


def report(
    params: ParamsFile = Path("params.yaml"),
    data: DataFolder = Path("data/clean"),
    circuit: CircuitFolder = Path("models/circuit"),
    pruned: Annotated[Path, typer.Option(help="Folder of the fine-tuned, pruned model.")] = Path(
        "models/finetuned/pruned"
    ),
    metrics: Annotated[Path, typer.Option(help="Folder of the metrics that the stages wrote.")] = Path("metrics"),
    plots: Annotated[
        Path, typer.Option(help="Folder of the tables that the stages wrote; pictures are written there too.")
    ] = Path("plots"),
    experiments: Annotated[
        Path | None, typer.Option(help="CSV file that dvc exp show --csv wrote: experiments to draw beside this run.")
    ] = None,
    compare_with: Annotated[
        Path | None, typer.Option(help="Folder of another circuit of the same model, to show what both share.")
    ] = None,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("reports/index.html"),
) -> None:
    """Write one page with everything that a run found, in which one can take parts of the model away."""
    import jinja2

    from vitprune.circuit.comparison import compare as compare_circuits
    from vitprune.commands.inputs import load_circuit, load_for, open_data, open_params
    from vitprune.commands.results import open_results
    from vitprune.commands.versions import versions
    from vitprune.core.compute.distributed import world
    from vitprune.core.model import load_model
    from vitprune.errors import CheckpointError
    from vitprune.evaluation.models import BASELINE
    from vitprune.recipes.report import find
    from vitprune.report.circuit_picture import draw_circuit
    from vitprune.report.kept import draw_kept
    from vitprune.report.page import Run, write_page
    from vitprune.report.page.inputs import read_tables
    from vitprune.report.pareto import read_experiments
    from vitprune.storage import check_targets, read_json

    options, device = open_params(params)
    if not world().is_main:
        return
    pictures = [plots / name for name in ("circuit.png", "circuit.svg", "kept.png")]
    check_targets(files=[out, *pictures])
    packed = open_data(data, options)
    found_circuit, sorted_model = load_circuit(circuit, device), load_model(circuit / "model", device)
    other = None if compare_with is None else load_circuit(compare_with, device)
    if other is not None:
        compare_circuits(found_circuit, other)
    pruned_model = load_for(pruned, options, packed, device)
    scores, times, table = open_results(metrics / "evaluate.json", metrics / "timing.json")
    size = max(int(key.removeprefix("batch_")) for key in times[BASELINE.name])
    others = read_experiments(experiments, size) if experiments is not None else []
    findings = find(packed, found_circuit, sorted_model, pruned_model, device)
    for picture in pictures[:2]:
        draw_circuit(picture, found_circuit)
    draw_kept(pictures[2], pruned_model.model.config)
    try:
        write_page(
            out,
            Run(
                dataset=options.data.source,
                params=options.model_dump(mode="json"),
                scores=scores,
                timing=times,
                table=table,
                faithfulness=read_json(metrics / "acdc.json").get("faithfulness", {}).get("circuit", {}),
                cleaning=read_json(metrics / "clean.json"),
                tables=read_tables(plots, data),
                packed=packed,
                circuit=found_circuit,
                pruned=pruned_model.model.config,
                found=findings,
                versions=versions(times["machine"]),
                experiments=others,
                other=other,
                other_name=str(compare_with or ""),
            ),
        )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, jinja2.UndefinedError) as error:
        raise CheckpointError(
            f"{metrics}, {plots}: not what the stages wrote ({error!r}); run them again (dvc repro --force)"
        ) from error
    logging.getLogger(__name__).info("wrote %s, %.1f MB; open it in a browser", out, out.stat().st_size / 1e6)
