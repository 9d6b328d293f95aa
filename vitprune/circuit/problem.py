"""What every discovery method works on, and the check that its parts belong together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.graph import Graph
from vitprune.circuit.masked import check_images
from vitprune.errors import CircuitError
from vitprune.model.vit import ViT


@dataclass(frozen=True, eq=False)
class Problem:
    """A model in evaluation mode, and the images on which it is decided which of its edges matter.

    ``images (b, c, height, width)`` are normalised. ``labels (b,)`` serve every metric but KL; None stands for the
    model's own predictions. ``ablation`` says what removed edges of ``graph`` carry.

    Raises CircuitError if the parts do not belong together or the model is in training mode.
    """

    model: ViT
    images: Tensor
    labels: Tensor | None
    graph: Graph
    ablation: Ablation

    def __post_init__(self) -> None:
        check_images(self.model, self.images)
        if self.model.training:
            raise CircuitError(
                "the model is in training mode: call model.eval() first, or dropout would blur the result"
            )
        self.graph.check(self.model)
        self.ablation.check(self.model)

    @classmethod
    def of(
        cls,
        model: ViT,
        images: Tensor,
        *,
        labels: Tensor | None = None,
        graph: Graph | None = None,
        ablation: Ablation | None = None,
    ) -> Problem:
        """The problem with ``Graph.of(model)`` and the mean over ``images`` where nothing else is given."""
        check_images(model, images)
        return cls(
            model=model,
            images=images,
            labels=labels,
            graph=graph or Graph.of(model),
            ablation=ablation or Ablation.mean(model, images),
        )
