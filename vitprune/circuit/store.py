"""Room for tensors of which a search tries new versions and takes some of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class VersionStore:
    """Versions of tensors, one batch of images after the other: which version is current, and which places are free.

    ``current[i]`` is the place of item i; items may share a place. New versions are written to free places, so that
    accepting them is a change of numbers.
    """

    def __init__(self, items: int, candidates: int, shapes: list[tuple[int, ...]], like: Tensor) -> None:
        places = items * (1 + candidates)
        self.batches = [like.new_empty(places, *shape) for shape in shapes]
        self.current = list(range(items))
        self._places = range(places)

    def take(self, count: int) -> list[int]:
        """Places that hold nothing current."""
        used = set(self.current)
        free = [place for place in self._places if place not in used]
        return free[:count]

    def put(self, batch: int, places: list[int], values: Tensor) -> None:
        """Write ``values``, one for each place."""
        store = self.batches[batch]
        if places[-1] - places[0] == len(places) - 1:
            store[places[0] : places[-1] + 1] = values
        else:
            store.index_copy_(0, torch.tensor(places, device=store.device), values)

    def get(self, batch: int, items: Sequence[int]) -> Tensor:
        """The current values of ``items``; not to be written to."""
        places, store = [self.current[item] for item in items], self.batches[batch]
        if places == list(range(places[0], places[0] + len(places))):
            return store[places[0] : places[0] + len(places)]
        return store.index_select(0, torch.tensor(places, device=store.device))
