"""The params of the section ``acdc``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vitprune.options import NonNegative, Options, Positive, Seed


class AcdcOptions(Options):
    """Circuit discovery: the method, the images, and how much an edge must matter to stay.

    Which method there is and what suits it is checked beside the methods, by ``check_acdc_options``.
    """

    method: str
    tau: NonNegative
    num_edges: Positive | None
    metric: Literal["kl", "cross-entropy", "logit-difference", "accuracy"]
    granularity: Literal["edge", "node", "node-edge"]
    ablation: Literal["mean", "zero", "resample", "noise"]
    noise_std: Annotated[float, Field(gt=0)]
    ig_steps: Positive
    split_qkv: bool
    mlp_groups: Positive
    num_images: Positive
    num_reference_images: Positive
    batch_size: Positive | None
    candidates: Positive | None
    curves: bool
    seed: Seed
