import torch

from vitprune.circuit.engine.slots import VersionStore


def test_an_accepted_version_is_current_and_the_others_are_overwritten_first():
    store = VersionStore(items=3, spare=1, shapes=[(2, 4, 5)], like=torch.empty(0))
    old, new, newer = torch.randn(3, 3, 2, 4, 5).unbind()
    store.put(0, [0, 1, 2], old)
    slots = store.take(3)
    assert slots == [3, 4, 5]
    store.put(0, slots, new)
    store.current[1] = slots[1]
    assert torch.equal(store.get(0, [0, 1, 2]), torch.stack([old[0], new[1], old[2]]))
    store.release()
    # Free slots that are not consecutive.
    slots = store.take(3)
    assert set(slots) == {1, 3, 5}
    store.put(0, slots, newer[:, :, :1])
    store.current[2] = slots[0]
    assert torch.equal(store.get(0, [2], tokens=1), newer[:1, :, :1])
    assert torch.equal(store.get(0, [1, 0]), torch.stack([new[1], old[0]]))


def test_what_is_written_in_the_room_of_consecutive_slots_needs_no_copy():
    store = VersionStore(items=2, spare=2, shapes=[(1, 1, 3)], like=torch.empty(0))
    slots = store.take(2)
    store.room(0, slots).fill_(7.0)
    store.current = slots
    assert store.get(0, [0, 1]).eq(7).all()
