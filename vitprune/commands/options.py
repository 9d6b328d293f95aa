"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ParamsFile = Annotated[Path, typer.Option("--params", help="Params file (params.yaml).")]
RawFolder = Annotated[Path, typer.Option("--raw", help="Folder that the download command wrote.")]
DataFolder = Annotated[Path, typer.Option("--data", help="Folder that the clean command wrote.")]
BaselineFolder = Annotated[Path, typer.Option("--baseline", help="Folder of the model that the train command wrote.")]
CircuitFolder = Annotated[Path, typer.Option("--circuit", help="Folder that the acdc command wrote.")]
PrunedFolder = Annotated[Path, typer.Option("--pruned", help="Folder of the model that the prune command wrote.")]
LatencyFile = Annotated[
    Path, typer.Option("--latency", help="JSON file of times that the prune command measured; used again, if there.")
]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write; it is replaced as a whole.")]
MetricsFile = Annotated[Path, typer.Option("--metrics", help="JSON file of metrics to write.")]
TimingFile = Annotated[Path, typer.Option("--timing", help="JSON file of timings to write.")]
StateFile = Annotated[
    Path, typer.Option("--state", help="File that keeps the state of the training, to go on after an interruption.")
]
