"""``vitprune importance``: rankings of edges on the scale of the benchmark MIB, and in its file format."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from vitprune.commands.options import CircuitFolder, DataFolder, ParamsFile


def importance(
    scores: Annotated[
        Path | None, typer.Argument(help="JSON file of scores for all edges, as MIB has them; default: the circuit's.")
    ] = None,
    params: ParamsFile = Path("params.yaml"),
    data: DataFolder = Path("data/clean"),
    circuit: CircuitFolder = Path("models/circuit"),
    out: Annotated[Path | None, typer.Option(help="JSON file to write the circuit's own scores to.")] = None,
    metrics: Annotated[Path | None, typer.Option(help="JSON file to write the figures to.")] = None,
) -> None:
    """Score a ranking of edges: f at ten shares of the edges, CPR and CMD; or hand the circuit's ranking on."""
    from vitprune.circuit.importance import read_importance, write_importance
    from vitprune.circuit.ranking import ranking_of
    from vitprune.commands.inputs import load_circuit, load_for, open_data, open_params
    from vitprune.commands.terminal import show_table
    from vitprune.core.compute.distributed import world
    from vitprune.recipes.importance import score_ranking
    from vitprune.report.importance import importance_table
    from vitprune.storage import check_targets, write_json

    options, device = open_params(params)
    if not world().is_main:
        return
    check_targets(files=[path for path in (out, metrics) if path is not None])
    packed = open_data(data, options)
    saved = load_for(circuit / "model", options, packed, device)
    found = load_circuit(circuit, device)
    ranking = ranking_of(found) if scores is None else read_importance(scores, found.graph)
    scored = score_ranking(packed, saved, found, ranking, options.acdc, device)
    show_table(importance_table(scored.scale, scored.curve, len(found.graph.edges)))
    if metrics is not None:
        write_json(metrics, scored.as_metrics())
    if out is not None:
        write_importance(out, found, saved.model.config)
        logging.getLogger(__name__).info("wrote %s", out)
