"""Damaged variants of a file, each a pure function of its number: bytes at large, and JSON, YAML-like text and tables by meaning."""

import json
import random
import re
import struct


NUMBERS = (0, 1, -1, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1)
WORDS = (
    *(
        "",
        " ",
        "7",
        "-1",
        "²",
        "٣",
        "1e400",
        "nan",
        "inf",
        "None",
        "true",
        "=HYPERLINK(1)",
        "a\nb",
        "a\x00b",
        "\ud800",
    ),
    *("../../escape", "/etc/passwd", "<script>alert(1)</script>", "12345678901234567890", "9" * 5000, "x" * 4000),
)
VALUES = (
    None,
    True,
    False,
    *NUMBERS,
    -1.5,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    *WORDS,
    [],
    {},
    [[]],
    [None],
    {"": 0},
    [1] * 99,
)
DICOM_TYPES = (b"AT", b"DA", b"DS", b"FD", b"IS", b"OB", b"SQ", b"UI", b"UL", b"UN", b"US")
DEPTH = 3000  # of nested lists, beyond Python's own
HEAD = 512  # bytes, where most headers are


def mutant(seeds: list[bytes], number: int, is_text: bool = False) -> bytes:
    """The mutant of that number: one to four changes of one of the seeds."""
    rng = random.Random(number)
    seed = rng.choice(seeds)
    if is_text and rng.random() < 0.7 and (changed := _changed_json(seed, rng)) is not None:
        return changed
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        change = rng.choice(_TEXT_CHANGES if is_text and rng.random() < 0.6 else _BYTE_CHANGES)
        change(data, rng, seeds)
    return bytes(data)


def _place(data: bytearray, rng: random.Random) -> int:
    return rng.randrange(min(len(data), HEAD) if rng.random() < 0.7 else len(data)) if data else 0


def _flip(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    if data:
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _set_byte(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    if data:
        data[_place(data, rng)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def _set_number(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    code = rng.choice(("<h", ">h", "<i", ">i", "<q", "<f", ">f", "<d"))
    if code[1] in "fd":
        value = rng.choice((0.0, -1.0, 1e30, -1e-30, float("inf"), float("nan"), 351.0))
        packed = struct.pack(code, value)
    else:
        size = struct.calcsize(code)
        packed = (rng.choice(NUMBERS) % 256**size).to_bytes(size, "little" if code[0] == "<" else "big")
    at = _place(data, rng) & (~3 if rng.random() < 0.5 else ~0)
    data[at : at + len(packed)] = packed


def _cut(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    del data[_place(data, rng) :]


def _drop(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = _place(data, rng)
    del data[at : at + rng.randint(1, 16)]


def _repeat(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = _place(data, rng)
    piece = data[at : at + rng.randint(1, 64)]
    data[at:at] = piece * rng.choice((1, 1, 2, 50))


def _splice(data: bytearray, rng: random.Random, seeds: list[bytes]) -> None:
    other, at = rng.choice(seeds), _place(data, rng)
    start = rng.randrange(len(other)) if other else 0
    data[at : at + 32] = other[start : start + 32]


def _extend(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    data += rng.randbytes(rng.randint(1, 64))


def _code(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    """Puts one type of DICOM's in the place of two capital letters, so that a field is read as what it is not."""
    found = [match.start() for match in re.finditer(rb"[A-Z]{2}", data)]
    if found:
        at = rng.choice(found)
        data[at : at + 2] = rng.choice(DICOM_TYPES)


def _word(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    """Puts a word in the place of a run of letters or digits."""
    ends = [i for i, byte in enumerate(data) if not (chr(byte).isalnum() or byte in b".-_")]
    if len(ends) > 1:
        index = rng.randrange(len(ends) - 1)
        word = str(rng.choice((*NUMBERS, *WORDS))).encode("utf-8", "surrogatepass")
        data[ends[index] + 1 : ends[index + 1]] = word


def _line(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    """Drops, doubles or moves a line."""
    lines = bytes(data).splitlines(keepends=True)
    if lines:
        line = lines.pop(rng.randrange(len(lines)))
        for _ in range(rng.choice((0, 1, 2))):
            lines.insert(rng.randrange(len(lines) + 1), line)
        data[:] = b"".join(lines)


_BYTE_CHANGES = (_flip, _flip, _set_byte, _set_number, _set_number, _cut, _drop, _repeat, _splice, _extend, _code)
_TEXT_CHANGES = (_word, _word, _word, _line)


def _changed_json(seed: bytes, rng: random.Random) -> bytes | None:
    """JSON, or a line of JSON lines, of which one to three values are others; None where it is no JSON."""
    lines = [seed] if seed.lstrip()[:1] == b"{" and seed.count(b"\n{") == 0 else seed.splitlines()
    index = rng.randrange(len(lines)) if lines else 0
    try:
        value = json.loads(lines[index])
    except (IndexError, ValueError):
        return None
    if rng.random() < 0.03:
        text = "[" * DEPTH + "]" * DEPTH if rng.random() < 0.5 else '{"a":' * DEPTH + "1" + "}" * DEPTH
    else:
        for _ in range(rng.randint(1, 3)):
            value = _with_other_value(value, rng)
        text = json.dumps(value)
    lines[index] = text.encode()
    return b"\n".join(lines)


def _with_other_value(value: object, rng: random.Random) -> object:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: one for name, one in value.items() if name != key}
        if rng.random() < 0.05:
            return {**value, rng.choice(WORDS): value[key]}
        return {**value, key: _with_other_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        index = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:index] + value[index + 1 :] if rng.random() < 0.5 else [*value, value[index]]
        return [*value[:index], _with_other_value(value[index], rng), *value[index + 1 :]]
    return rng.choice(VALUES)
