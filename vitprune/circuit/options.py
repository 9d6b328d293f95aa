"""The params of the section ``acdc``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

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
    classes: Annotated[list[str | int], Field(min_length=1, max_length=2)] | None
    images: str | None
    num_images: Positive
    num_reference_images: Positive
    batch_size: Positive | None
    candidates: Positive | None
    curves: bool
    bootstrap_samples: Annotated[int, Field(ge=2)] | None
    seed: Seed

    @model_validator(mode="after")
    def _images_are_chosen_in_one_way(self) -> AcdcOptions:
        if self.classes is not None and self.images is not None:
            raise ValueError("acdc.classes and acdc.images exclude each other; set one of them to null")
        if self.classes is not None and len({str(name) for name in self.classes}) < len(self.classes):
            raise ValueError(f"acdc.classes names {self.classes[0]!r} twice; name one class, or two different ones")
        return self
