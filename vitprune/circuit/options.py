"""The params of the section ``acdc``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vitprune.options import NonNegative, Options, Positive, Seed


class AcdcOptions(Options):
    """Circuit discovery: what is searched, on which images, and what counts as not mattering."""

    method: Literal["acdc", "eap", "eap-ig", "hybrid", "activation", "random"]
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

    @model_validator(mode="after")
    def _the_metric_suits_the_method(self) -> AcdcOptions:
        if self.method == "eap" and self.metric == "kl":
            raise ValueError(
                "acdc.metric kl does not suit acdc.method eap: KL(full ‖ circuit) is least at the full model, so that "
                "its gradient there is zero; set acdc.metric to cross-entropy or logit-difference, or use eap-ig"
            )
        if self.method in ("eap", "eap-ig", "hybrid") and self.metric == "accuracy":
            raise ValueError(f"acdc.metric accuracy does not suit acdc.method {self.method}: it has no gradient")
        if self.method in ("acdc", "hybrid") and self.num_edges is not None:
            raise ValueError(
                f"acdc.num_edges ({self.num_edges}) is for methods that rank edges; {self.method} goes by acdc.tau: "
                "set acdc.num_edges to null"
            )
        return self
