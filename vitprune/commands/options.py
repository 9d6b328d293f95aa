"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ParamsFile = Annotated[Path, typer.Option("--params", help="Params file; see profiles/ for complete ones.")]
RawFolder = Annotated[Path, typer.Option("--raw", help="Folder that the download command wrote.")]
DataFolder = Annotated[Path, typer.Option("--data", help="Folder that the clean command wrote.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write; it is replaced as a whole.")]
MetricsFile = Annotated[Path, typer.Option("--metrics", help="JSON file of metrics to write.")]
StateFile = Annotated[
    Path,
    typer.Option(
        "--state", help="File to keep the state of the training in, so that it can go on after an interruption."
    ),
]
TimingFile = Annotated[Path, typer.Option("--timing", help="JSON file of timings to write.")]
LatencyFile = Annotated[
    Path,
    typer.Option(
        "--latency", help="JSON file in which measured costs are kept, for as long as they are of this machine."
    ),
]
