"""``vitprune evaluate``: what pruning and fine-tuning did to loss, accuracy and inference time."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from vitprune.commands.options import DataFolder, MetricsFile, ParamsFile, TimingFile


def evaluate(
    params: ParamsFile = Path("params.yaml"),
    data: DataFolder = Path("data/clean"),
    models: Annotated[Path, typer.Option(help="Folder of all models of the pipeline.")] = Path("models"),
    metrics: MetricsFile = Path("metrics/evaluate.json"),
    timing: TimingFile = Path("metrics/timing.json"),
    table: Annotated[Path, typer.Option(help="Markdown file of the table of models to write.")] = Path(
        "metrics/table.md"
    ),
    confusion: Annotated[
        Path, typer.Option(help="PNG of the fine-tuned pruned model's confusion matrix; its pairs go beside it.")
    ] = Path("plots/confusion.png"),
) -> None:
    """Score four models and the exact circuit on the test images, and time the models side by side."""
    from vitprune.circuit import Circuit
    from vitprune.commands import measuring
    from vitprune.commands.context import load_for, open_params
    from vitprune.data import load_packed
    from vitprune.device import set_threads
    from vitprune.distributed import world
    from vitprune.evaluation.models import CIRCUIT
    from vitprune.evaluation.table import model_table
    from vitprune.model import load_model
    from vitprune.model.predict import predict
    from vitprune.model.score import score
    from vitprune.report.confusion import confusion_matrix, draw_confusion, most_confused, write_confusion
    from vitprune.report.markdown import to_markdown
    from vitprune.storage import check_targets, write_json, write_text

    options, device = open_params(params)
    check_targets(files=[metrics, timing, table, confusion])
    packed = load_packed(data)
    saved = {name: load_for(models / folder, options, packed, device) for name, folder in measuring.FOLDERS.items()}
    circuit = Circuit.load(models / "circuit", device)
    circuit_model = load_model(models / "circuit" / "model", device)

    test, batch_size = packed.test, options.evaluate.batch_size
    logits = {
        name: predict(model.model, test.images, model.preprocessing, batch_size, device)
        for name, model in saved.items()
    }
    masked = circuit.as_module(circuit_model.model)
    masked_logits = predict(masked, test.images, circuit_model.preprocessing, batch_size, device)
    if not world().is_main:
        return
    # The others are done: models are timed as without them.
    set_threads(options.compute.threads)
    scores: dict[str, Any] = {
        name: measuring.describe(model, models / measuring.FOLDERS[name], score(logits[name], test.labels))
        for name, model in saved.items()
    }
    scores[CIRCUIT] = score(masked_logits, test.labels).as_metrics() | {
        "edges": len(circuit.graph.edges),
        "edges_kept": len(circuit.kept),
        "edges_on_paths": len(circuit.closed().kept),
    }
    scores |= {"dataset": options.data.source, "test_images": len(test), "seed": options.compute.seed}
    times = measuring.time_all(saved, packed, options.evaluate, device)

    write_json(metrics, scores)
    write_json(timing, times)
    matrix = confusion_matrix(logits[measuring.FINAL], test.labels)
    draw_confusion(confusion, matrix, packed.class_names)
    write_confusion(confusion.with_suffix(".csv"), most_confused(matrix, packed.class_names))
    results = model_table(scores, times)
    write_text(table, to_markdown(results))
    logging.getLogger(__name__).info("wrote %s; vitprune table prints it", table)
