"""Damage that strangers' files have: bytes flipped, cut, copied; numbers and objects of JSON replaced by worse ones."""

import copy
import json
from random import Random
from typing import Any

_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
_NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**53, 2**63, 2**64, 10**30, 0.5, -0.5, 1e308,
    float("nan"), float("inf"), "", "x", "x" * 3000, "..", "../x", "a/b", "\x00", "\ud800", "F32", "I64", "llama",
    "none", [], [0], [-1], [2**62, 2**62], [1] * 40, {}, {"x": 1}, {"rope_type": "yarn", "factor": -1}, [[[[[]]]]],
)  # fmt: skip


def mutated_bytes(random: Random, raw: bytes, start: int = 0, end: int | None = None) -> bytes:
    """Some damage between two offsets."""
    data = bytearray(raw)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        last = min(len(data), len(raw) if end is None else end)
        if last <= start:
            break
        at = random.randrange(start, last)
        match random.randrange(9):
            case 0:
                data[at] ^= 1 << random.randrange(8)
            case 1:
                data[at] = random.randrange(256)
            case 2:
                width = random.choice((1, 2, 4, 8))
                data[at : at + width] = (random.choice(_EDGES) % 256**width).to_bytes(width, "little")
            case 3:
                data[at:at] = random.randbytes(random.randrange(1, 9))
            case 4:
                del data[at : at + random.randrange(1, 9)]
            case 5:
                length = random.randrange(1, 64)
                source = random.randrange(start, last)
                data[at : at + length] = data[source : source + length]
            case 6:
                del data[at:]
            case 7:
                data[at : at + random.randrange(1, 16)] = bytes(random.randrange(1, 16))
            case 8:
                data[at] = (data[at] + random.choice((-1, 1))) % 256
    return bytes(data)


def mutated_json(random: Random, raw: bytes) -> bytes:
    """Some damage to a JSON document: mostly to its values, sometimes to its text."""
    if random.random() < 0.25:
        return mutated_bytes(random, raw)
    document = json.loads(raw)
    for _ in range(random.choice((1, 1, 2))):
        _mutate(random, document)
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _mutate(random: Random, document: Any) -> None:
    parent, key = _place(random, document)
    if parent is None:
        return
    value = parent[key]
    match random.randrange(6):
        case 0 | 1:
            parent[key] = copy.deepcopy(random.choice(_NASTY))
        case 2 if isinstance(value, int):
            parent[key] = value + random.choice((-1, 1, -value, value, 2**20))
        case 2 | 3:
            del parent[key]
        case 4 if isinstance(parent, dict):
            parent[random.choice(("x", f"{key}.weight", key.upper(), "dtype", "model.norm.weight"))] = value
        case 4:
            parent.append(value)
        case 5:
            other, place = _place(random, document)
            if other is not None:
                parent[key] = copy.deepcopy(other[place])


def _place(random: Random, document: Any) -> tuple[Any, Any]:
    """Some member of the document, any depth alike: its parent and its key."""
    places = [
        (parent, key)
        for parent in _parents(document)
        for key in (parent if isinstance(parent, dict) else range(len(parent)))
    ]
    return random.choice(places) if places else (None, None)


def _parents(value: Any) -> list[Any]:
    found, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            found.append(one)
            waiting.extend(one.values() if isinstance(one, dict) else one)
    return found
