"""Room for tensors of which a search tries new versions and takes some of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class VersionStore:
    """Versions of tensors, one batch of images after the other: which version is current, and which places are free.

    ``current[i]`` is the place of item i; items may share a place. New versions are written to free places, so that
    accepting them is a change of numbers. There is room for ``spare`` more versions of each item.

    Dimension 2 is tokens. Of a version only the first may be valid, if nothing reads the others any more.
    """

    def __init__(self, items: int, spare: int, shapes: list[tuple[int, ...]], like: Tensor) -> None:
        places = items * (1 + spare)
        self.batches = [like.new_empty(places, *shape) for shape in shapes]
        self.current = list(range(items))
        self._places = range(places)
        self._taken: set[int] = set()

    def give_back(self) -> None:
        """Forget what was taken and has not become current."""
        self._taken.clear()

    def take(self, count: int) -> list[int]:
        """Places that hold nothing current and are not taken, one after the other if there is such a run."""
        used = self._taken.union(self.current)
        run, found = 0, []
        for place in self._places:
            run = 0 if place in used else run + 1
            if run == count:
                found = list(range(place - count + 1, place + 1))
                break
        else:
            found = [place for place in self._places if place not in used][:count]
        self._taken.update(found)
        return found

    def room(self, batch: int, places: list[int]) -> Tensor:
        """Where the values of ``places`` are written: in the store itself, or apart if they do not stand in a row."""
        store = self.batches[batch]
        if _is_run(places):
            return store[places[0] : places[-1] + 1]
        return store.new_empty(len(places), *store.shape[1:])

    def put(self, batch: int, places: list[int], values: Tensor) -> None:
        """Write ``values``, one for each place and of all tokens or the first, unless they stand there already."""
        store = self.batches[batch][:, :, : values.shape[2]]
        if not _is_run(places):
            store.index_copy_(0, torch.tensor(places, device=store.device), values)
        elif values.data_ptr() != store[places[0]].data_ptr():
            store[places[0] : places[-1] + 1] = values

    def get(self, batch: int, items: Sequence[int], tokens: int | None = None) -> Tensor:
        """The current values of ``items``, of all tokens or the first; not to be written to."""
        places, store = [self.current[item] for item in items], self.batches[batch][:, :, :tokens]
        if _is_run(places):
            return store[places[0] : places[-1] + 1]
        return store.index_select(0, torch.tensor(places, device=store.device))


def _is_run(places: list[int]) -> bool:
    return places == list(range(places[0], places[0] + len(places)))
