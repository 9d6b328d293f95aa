"""The params of the section ``acdc``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vitprune.circuit.ablation import AblationKind
from vitprune.circuit.metrics import MetricName
from vitprune.circuit.problem import Direction, Granularity
from vitprune.options import NonNegative, Options, Positive, Seed


class AcdcOptions(Options):
    """Circuit discovery: the method, the images, and how much an edge must matter to stay.

    ``check_acdc_options`` in ``vitprune.circuit.methods`` checks that the method exists and that the others suit it.
    """

    method: str
    tau: NonNegative
    num_edges: Positive | None
    metric: MetricName
    granularity: Granularity
    direction: Direction
    ablation: AblationKind
    noise_std: Annotated[float, Field(gt=0)]
    ig_steps: Positive
    split_qkv: bool
    mlp_groups: Positive
    num_images: Positive
    num_reference_images: Positive
    batch_size: Positive | None
    candidates: Positive | None
    curves: bool
    bootstrap_samples: Annotated[int, Field(ge=2)] | None
    seed: Seed
