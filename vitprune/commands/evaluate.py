"""``vitprune evaluate``: what pruning and fine-tuning did to loss, accuracy and inference time."""

from pathlib import Path
from typing import Annotated

import typer

from vitprune.commands.options import (
    BaselineFolder,
    CircuitFolder,
    DataFolder,
    MetricsFile,
    ParamsFile,
    PrunedFolder,
    TimingFile,
)


def evaluate(
    params: ParamsFile = Path("params.yaml"),
    data: DataFolder = Path("data/clean"),
    baseline: BaselineFolder = Path("models/baseline"),
    pruned: PrunedFolder = Path("models/pruned"),
    finetuned: Annotated[
        Path,
        typer.Option(help="Folder that the finetune command wrote its models into."),
    ] = Path("models/finetuned"),
    circuit: CircuitFolder = Path("models/circuit"),
    summary: Annotated[Path, typer.Option(help="JSON file of the figures that are looked at first to write.")] = Path(
        "metrics/summary.json"
    ),
    metrics: MetricsFile = Path("metrics/evaluate.json"),
    timing: TimingFile = Path("metrics/timing.json"),
    table: Annotated[
        Path,
        typer.Option(help="Markdown file of the table of models to write."),
    ] = Path("metrics/table.md"),
    confusion: Annotated[
        Path,
        typer.Option(help="PNG of the fine-tuned pruned model's confusion matrix; CSV and worst.png go beside it."),
    ] = Path("plots/confusion.png"),
) -> None:
    """Score four models and the masked circuit on the test images, and time the models side by side."""
    from vitprune.commands.inputs import load_circuit, load_for, open_data, open_params
    from vitprune.commands.terminal import show_table
    from vitprune.core.model import load_model
    from vitprune.evaluation.headline import headline
    from vitprune.evaluation.models import MODELS
    from vitprune.evaluation.summary import model_bytes
    from vitprune.evaluation.table import model_table
    from vitprune.recipes.evaluate import evaluate as measure
    from vitprune.report.confusion import confusion_matrix, draw_confusion, most_confused, write_confusion
    from vitprune.report.markdown import to_markdown
    from vitprune.report.worst import draw_worst, worst_images
    from vitprune.storage import check_targets, write_json, write_text

    options, device = open_params(params)
    worst = confusion.with_name("worst.png")
    check_targets(files=[summary, metrics, timing, table, confusion, confusion.with_suffix(".csv"), worst])
    packed = open_data(data, options)
    names = [model.name for model in MODELS]
    folders = dict(zip(names, (baseline, pruned, finetuned / "baseline", finetuned / "pruned"), strict=True))
    models = {name: load_for(folder, options, packed, device) for name, folder in folders.items()}
    sizes = {name: model_bytes(folder) for name, folder in folders.items()}
    found, sorted_model = load_circuit(circuit, device), load_model(circuit / "model", device)
    done = measure(packed, models, sizes, found, sorted_model, options.evaluate, options.compute, device)
    if done is None:
        return
    scores = done.scores | {"dataset": options.data.source}
    write_json(metrics, scores)
    write_json(timing, done.times)
    write_json(summary, headline(scores, done.times))
    matrix = confusion_matrix(done.logits, packed.test.labels)
    draw_confusion(confusion, matrix, packed.class_names)
    write_confusion(confusion.with_suffix(".csv"), most_confused(matrix, packed.class_names))
    draw_worst(worst, worst_images(done.logits, packed.test.labels), packed.test.images, packed.class_names)
    results = model_table(scores, done.times)
    write_text(table, to_markdown(results))
    show_table(results, is_wide=True)
