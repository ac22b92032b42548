"""Damage: bytes changed, cut, doubled and put in, at random places and at those where headers are."""

import argparse
import random
from collections.abc import Callable

_INTERESTING = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x01"]
_HEADER = 80  # bytes at the beginning, which are hit as often as all others together


def mutate(content: bytes, random: random.Random) -> bytes:
    """Return `content` after one to four changes."""
    for _ in range(random.randint(1, 4)):
        content = random.choice(_MUTATIONS)(content, random)
    return content


def _place(content: bytes, random: random.Random) -> int:
    end = min(_HEADER, len(content)) if random.random() < 0.5 else len(content)
    return random.randint(0, end)


def _flip(content: bytes, random: random.Random) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[min(_place(content, random), len(content) - 1)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(content: bytes, random: random.Random) -> bytes:
    return content[: _place(content, random)]


def _drop(content: bytes, random: random.Random) -> bytes:
    start = _place(content, random)
    return content[:start] + content[start + random.randint(1, 16) :]


def _insert(content: bytes, random: random.Random) -> bytes:
    place = _place(content, random)
    return content[:place] + random.choice([*_INTERESTING, random.randbytes(5)]) + content[place:]


def _overwrite(content: bytes, random: random.Random) -> bytes:
    place, piece = _place(content, random), random.choice(_INTERESTING)
    return content[:place] + piece + content[place + len(piece) :]


def _double(content: bytes, random: random.Random) -> bytes:
    return content + content[_place(content, random) :]


_MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [_flip, _cut, _drop, _insert, _overwrite, _double]


def one_line(error: Exception) -> str:
    """Say that an input was refused, if that was done in one line that a person may read."""
    assert "\n" not in str(error), error
    assert len(str(error)) < 4000, error
    return "refused"


def main(check: Callable[[int, int], dict[str, int]], description: str | None) -> None:
    """Run a fuzz target as a script, and print how many inputs ended in which way."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(check(arguments.count, arguments.seed))
