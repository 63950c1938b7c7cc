"""Fuzzing in one frame: damage to bytes, damage to documents, and campaigns that count what was accepted and what was found.

A target makes an input from a random generator and examines it: the answer is whether it was accepted, an AssertionError says that it was answered wrongly. Whatever else
comes out, an exception that is no refusal, or seconds of silence, is a finding as well. Inputs follow from the seed alone.
"""

import copy
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

# ---------------------------------------------------------------- damage to bytes

NUMBERS = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?")
LETTERS = rb"0123456789.e-+,:{}[]\"\n\\ nulltruefalsNI_\x00\xff"
ESCAPED = re.compile(rb"[a-z_]")


def at(data: bytes, start: int, stop: int, text: bytes) -> bytes:
    return data[:start] + text + data[stop:]


def any_match(pattern, data: bytes, rng):
    found = list(pattern.finditer(data))
    return found[int(rng.integers(len(found)))] if found else None


def flipped_bit(data, rng):
    place = int(rng.integers(len(data)))
    return at(data, place, place + 1, bytes([data[place] ^ (1 << int(rng.integers(8)))]))


def replaced_byte(data, rng):
    place = int(rng.integers(len(data)))
    return at(data, place, place + 1, bytes([rng.integers(256)]))


def replaced_by_a_likely_byte(data, rng):
    place = int(rng.integers(len(data)))
    return at(data, place, place + 1, LETTERS[(i := int(rng.integers(len(LETTERS)))):i + 1])


def inserted_byte(data, rng):
    place = int(rng.integers(len(data) + 1))
    return at(data, place, place, LETTERS[(i := int(rng.integers(len(LETTERS)))):i + 1] if rng.random() < 0.5 else bytes([rng.integers(256)]))


def deleted_bytes(data, rng):
    place = int(rng.integers(len(data)))
    return at(data, place, place + int(rng.choice([1, 1, 1, 2, 7, 8, 9, 64])), b"")


def truncated(data, rng):
    return data[:int(rng.integers(len(data)))] if rng.random() < 0.5 else data[int(rng.integers(1, len(data))):]


def swapped_neighbours(data, rng):
    place = int(rng.integers(len(data) - 1))
    return at(data, place, place + 2, data[place:place + 2][::-1])


def swapped_stretches(data, rng):
    a, b, c = sorted(int(x) for x in rng.integers(0, len(data), 3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def number_edit(data, rng):
    "1 as 01, 1.0, 1e0, -1, +1, text; 0.5 as 0.50, 5e-1, .5; another digit; too large for the type; no number."
    match = any_match(NUMBERS, data, rng)
    if match is None:
        return flipped_bit(data, rng)
    text = match[0]
    digit = int(rng.integers(len(text)))
    edits = [b"0" + text, text + b"0", text + b".0", text + b".", b"-" + text, b"+" + text, text + b"e0", text + b"e+00", text + b"E1", text.replace(b"e", b"E"), text.replace(b"e+", b"e"), b'"' + text + b'"',
             text.replace(b".", b","), text.lstrip(b"0"), b"-0", b"-0.0", b"0.0", b"0", b"1e400", b"1e-400", b"5e-324", b"18446744073709551615", b"18446744073709551616", b"9223372036854775808",
             b"9" * 21, b"1" * 400, b"0." + b"0" * 400 + b"1", b"NaN", b"Infinity", b"null", b"true", b"", b" " + text, text[:digit] + b"%d" % rng.integers(10) + text[digit + 1:], text[:digit] + text[digit + 1:],
             text[:digit] + b"%d" % rng.integers(10) + text[digit:], text + b"_0", text[::-1]]
    return at(data, *match.span(), edits[int(rng.integers(len(edits)))])


def escaped_letter(data, rng):
    match = any_match(ESCAPED, data, rng)
    if match is None:
        return flipped_bit(data, rng)
    text = [b"\\u%04x" % match[0][0], b"\\u%04X" % match[0][0], b"\\/", b"\\" + match[0], b"\\n", b"\\u0000", "é".encode(), match[0].upper()][int(rng.integers(8))]
    return at(data, *match.span(), text)


def duplicated_key(data, rng):
    "A member of an object once more, as it is or with another value, there or at the end."
    match = any_match(re.compile(rb'"[a-z_]+":(?:"[^"]*"|[^,}]*)'), data, rng)
    if match is None:
        return flipped_bit(data, rng)
    member = match[0] if rng.random() < 0.5 else match[0].partition(b":")[0] + b":0"
    end = data.find(b"}", match.end())
    return at(data, match.end(), match.end(), b"," + member) if rng.random() < 0.5 or end < 0 else at(data, end, end, b"," + member)


def missing_member(data, rng):
    match = any_match(re.compile(rb'"[a-z_]+":(?:"[^"]*"|[^,}]*),'), data, rng)
    return at(data, *match.span(), b"") if match else flipped_bit(data, rng)


def whitespace(data, rng):
    place = any_match(re.compile(rb"[,:{}\n]"), data, rng)
    start = place.start() if place else 0
    return at(data, start, start, [b" ", b"\t", b"\r", b"\n", b"\xef\xbb\xbf", b"\x00", b"  "][int(rng.integers(7))])


def moved_lines(data, rng):
    "Lines doubled, lost, in another order, joined: some are legal files."
    lines = data.splitlines(keepends=True)
    chosen = [lines[int(i)] for i in rng.integers(0, len(lines), rng.integers(0, 5))]
    return b"".join(chosen) if rng.random() < 0.7 else b"".join(chosen).replace(b"\n", [b"", b"\r\n", b"\n\n", b","][int(rng.integers(4))], 1)


def noise(data, rng):
    return rng.bytes(int(rng.integers(0, 300))) if rng.random() < 0.5 else b"{" * int(rng.integers(0, 5000))


DAMAGES = [flipped_bit, replaced_byte, replaced_by_a_likely_byte, inserted_byte, deleted_bytes, truncated, swapped_neighbours, swapped_stretches, number_edit, number_edit, number_edit, escaped_letter, duplicated_key,
           missing_member, whitespace, moved_lines, noise]


def damaged(data: bytes, rng) -> bytes:
    "The bytes with one damage, sometimes two."
    data = DAMAGES[int(rng.integers(len(DAMAGES)))](data, rng)
    return DAMAGES[int(rng.integers(len(DAMAGES)))](data, rng) if data and rng.random() < 0.1 and len(data) > 2 and b"\n" in data[1:] else data


# ---------------------------------------------------------------- documents

ODD_VALUES = [None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, 0.0, -0.0, 1.0, 0.5, 1e308, 5e-324, float("nan"), float("inf"), "", "x", "NO", "1_000", "*", "a\x00b", "\u00e9", "A" * 5000, [], {}, [None],
              {"a": 1}, [[[]]], {7: 1}, {True: 1}]


def paths_of(document: object, path: tuple = ()) -> list[tuple]:
    "The places in a document, the root not among them."
    steps = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    return [place for step, inner in steps for place in ((*path, step), *paths_of(inner, (*path, step)))]


def damaged_document(document: dict, rng) -> dict:
    "A document in which one value, now and then two, is another, is gone, stands at another place, or has a stranger beside it."
    document = copy.deepcopy(document)
    for _ in range(1 if rng.random() < 0.8 else 2):
        places = paths_of(document)
        if not places:
            return document
        *steps, last = places[int(rng.integers(len(places)))]
        parent = document
        for step in steps:
            parent = parent[step]
        other = ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
        match int(rng.integers(6)):
            case 0:
                del parent[last]
            case 1 if isinstance(parent, dict):
                parent[["stranger", 7, "", "notes", last][int(rng.integers(5))]] = copy.deepcopy(other)
            case 1:
                parent.insert(last, copy.deepcopy(other))
            case 2:
                elsewhere = places[int(rng.integers(len(places)))]
                value = document
                for step in elsewhere:
                    value = value[step]
                parent[last] = copy.deepcopy(value)
            case _:
                parent[last] = copy.deepcopy(other)
    return document


# ---------------------------------------------------------------- campaigns

MOST_SECONDS = 5.0  # CPU, for one input of a few kilobytes


@dataclass(frozen=True)
class Target:
    """`make(rng)` gives an input, `examine(input)` whether it was accepted."""

    name: str
    make: Callable[[np.random.Generator], object]
    examine: Callable[[object], bool]


@dataclass
class Tally:
    """What a campaign did."""

    target: str
    executions: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    findings: list[tuple[str, object]] = field(default_factory=list)  # what went wrong, the input

    def __str__(self) -> str:
        return f"{self.target}: {self.executions} executions, {self.accepted} accepted, {len(self.findings)} findings, {self.seconds:.1f} s of CPU, slowest {self.slowest * 1e3:.0f} ms"


def fuzzed(target: Target, seed: object, count: int) -> Tally:
    "A campaign of `count` executions; findings are collected, not raised."
    rng, tally = np.random.default_rng(seed), Tally(target.name)
    for _ in range(count):
        made = target.make(rng)
        started = time.process_time()
        try:
            tally.accepted += target.examine(made)
        except Exception as error:
            tally.findings.append((f"{type(error).__name__}: {error}"[:500], made))
        spent = time.process_time() - started
        if spent > MOST_SECONDS:
            tally.findings.append((f"{spent:.1f} s", made))
        tally.executions += 1
        tally.seconds += spent
        tally.slowest = max(tally.slowest, spent)
    return tally
