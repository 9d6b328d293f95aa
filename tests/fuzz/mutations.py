"""How files break: bits that flip, bytes that are lost, doubled or overwritten, and values that are exchanged."""

import json
import random
import re
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]


def _span(content: bytes, chance: random.Random) -> tuple[int, int]:
    """A random part of the content, mostly short."""
    start = chance.randrange(len(content) + 1)
    return start, min(len(content), start + int(chance.paretovariate(0.7)))


def flip_bit(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def flip_bit_of_the_header(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    changed[chance.randrange(min(len(content), 128))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut_short(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def lose_a_part(content: bytes, chance: random.Random) -> bytes:
    start, end = _span(content, chance)
    return content[:start] + content[end:]


def double_a_part(content: bytes, chance: random.Random) -> bytes:
    start, end = _span(content, chance)
    return content[:end] + content[start:]


def zero_a_part(content: bytes, chance: random.Random) -> bytes:
    start, end = _span(content, chance)
    return content[:start] + bytes(end - start) + content[end:]


def overwrite_a_part(content: bytes, chance: random.Random) -> bytes:
    start, end = _span(content, chance)
    return content[:start] + chance.randbytes(end - start) + content[end:]


def exchange_two_parts(content: bytes, chance: random.Random) -> bytes:
    first, second, third = sorted(chance.randrange(len(content) + 1) for _ in range(3))
    return content[:first] + content[second:third] + content[first:second] + content[third:]


def append(content: bytes, chance: random.Random) -> bytes:
    return content + chance.choice([b"\0", b"\n", b"{}", chance.randbytes(64), content])


ODD_VALUES = [b"0", b"-1", b"1e400", b"NaN", b"null", b"true", b"[]", b"{}", b'"x"', b"1" + b"0" * 30, b"[" * 2000]


def change_a_number(content: bytes, chance: random.Random) -> bytes:
    """Put an odd value in the place of a number in text."""
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?(e-?\d+)?", content))
    if not numbers:
        return flip_bit(content, chance)
    number = chance.choice(numbers)
    return content[: number.start()] + chance.choice(ODD_VALUES) + content[number.end() :]


def change_a_value(content: bytes, chance: random.Random) -> bytes:
    """Change, remove or rename one value somewhere in JSON."""
    try:
        root = json.loads(content)
    except (ValueError, RecursionError):
        return flip_bit(content, chance)
    parents, pending = [], [root]
    while pending:
        value = pending.pop()
        if isinstance(value, dict | list) and value:
            parents.append(value)
            pending += value.values() if isinstance(value, dict) else value
    if not parents:
        return append(content, chance)
    parent = chance.choice(parents)
    key = chance.choice(list(parent)) if isinstance(parent, dict) else chance.randrange(len(parent))
    if chance.random() < 0.3:
        del parent[key]
    else:
        parent[key] = chance.choice(
            [None, True, -1, 0, 1.5, 10**30, float("nan"), "x", [], {}, [[]], parent[key], root]
        )
    try:
        return json.dumps(root).encode()
    except (ValueError, RecursionError):  # The root inside itself.
        return cut_short(content, chance)


MUTATIONS: list[Mutation] = [
    flip_bit,
    flip_bit_of_the_header,
    cut_short,
    lose_a_part,
    double_a_part,
    zero_a_part,
    overwrite_a_part,
    exchange_two_parts,
    append,
    change_a_number,
    change_a_value,
]


def mutate(content: bytes, chance: random.Random) -> bytes:
    """The content with one random mutation, and now and then with several."""
    while True:
        changed = content
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            changed = chance.choice(MUTATIONS)(changed, chance) if changed else chance.randbytes(8)
        if changed != content:
            return changed
