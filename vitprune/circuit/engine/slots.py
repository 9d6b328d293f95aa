"""Versions of tensors in numbered slots: a search tries new ones and accepts some of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class VersionStore:
    """Slots that hold versions of items, for each batch of images.

    ``current[i]`` is the slot of item i; items may share a slot. New versions are written to free slots, so that
    accepting one changes a number and copies nothing. There is room for ``spare`` more versions of each item.

    Dimension 2 is tokens. A version may be valid at the first tokens only, if nothing reads the others any more.
    """

    def __init__(self, items: int, spare: int, shapes: list[tuple[int, ...]], like: Tensor) -> None:
        slots = items * (1 + spare)
        self.batches = [like.new_empty(slots, *shape) for shape in shapes]
        self.current = list(range(items))
        self._slots = range(slots)
        self._taken: set[int] = set()

    def release(self) -> None:
        """Free the slots that were taken and have not become current."""
        self._taken.clear()

    def take(self, count: int) -> list[int]:
        """Free slots to write to, consecutive ones if possible."""
        used = self._taken.union(self.current)
        length, slots = 0, []
        for slot in self._slots:
            length = 0 if slot in used else length + 1
            if length == count:
                slots = list(range(slot - count + 1, slot + 1))
                break
        else:
            slots = [slot for slot in self._slots if slot not in used][:count]
        self._taken.update(slots)
        return slots

    def room(self, batch: int, slots: list[int]) -> Tensor:
        """Memory for new values of ``slots``: the slots themselves, or apart if they are not consecutive."""
        store = self.batches[batch]
        if _are_consecutive(slots):
            return store[slots[0] : slots[-1] + 1]
        return store.new_empty(len(slots), *store.shape[1:])

    def put(self, batch: int, slots: list[int], values: Tensor) -> None:
        """Write one value to each slot, at all tokens or the first; values that are in ``room`` are there already."""
        store = self.batches[batch][:, :, : values.shape[2]]
        if not _are_consecutive(slots):
            store.index_copy_(0, torch.tensor(slots, device=store.device), values)
        elif values.data_ptr() != store[slots[0]].data_ptr():
            store[slots[0] : slots[-1] + 1] = values

    def get(self, batch: int, items: Sequence[int], tokens: int | None = None) -> Tensor:
        """The current values of ``items``, at all tokens or the first. Do not write to them."""
        slots, store = [self.current[item] for item in items], self.batches[batch][:, :, :tokens]
        if _are_consecutive(slots):
            return store[slots[0] : slots[-1] + 1]
        return store.index_select(0, torch.tensor(slots, device=store.device))


def _are_consecutive(slots: list[int]) -> bool:
    return slots == list(range(slots[0], slots[0] + len(slots)))
