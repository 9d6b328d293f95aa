"""What might be changed in JSON, place by place."""

import copy

REMOVED = object()
"""In place of a new value: the old one is taken away."""


def places(value, path=()):
    """The paths to all values in JSON, the whole first, as tuples of keys and indices."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from places(child, (*path, key))


def replaced(value, place, new):
    """A copy of JSON with a new value at a place that is not the whole."""
    whole = copy.deepcopy(value)
    parent = whole
    for key in place[:-1]:
        parent = parent[key]
    if new is REMOVED:
        del parent[place[-1]]
    else:
        parent[place[-1]] = copy.deepcopy(new)
    return whole


def value_at(value, place):
    """What is at a place."""
    for key in place:
        value = value[key]
    return value
