"""The text of numbers and row programs: bulk comparison with Python's own text, hostile bytes, round trips."""
import json
import struct
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg1a.core.encoding import canonical_line
from seg1a.core.errors import Seg1aError
from seg1a.core.float_text import FLOAT_WIDTH, SLACK, format_float, format_floats, parse_float, put_u64, take_float, take_u64
from seg1a.core.kernels import kernel
from seg1a.core.rows import ABSENT, CHUNK, RowBuffer, format_chunks, format_rows, parse_rows, row_objects, row_program


@kernel
def _take_all(data, ends, bits, scratch):
    "Read every float of a text whose numbers are separated by one byte; the number of refusals."
    p = refused = 0
    for i in range(ends.size):
        bits[i], q = take_float(data, p, data.size, scratch)
        refused += q != ends[i]
        p = ends[i] + 1
    return refused


def same_as_python(values: np.ndarray) -> None:
    "format_floats equals repr, and take_float brings the same 64 bits back."
    texts = format_floats(values)
    assert texts == [repr(x) for x in values.tolist()]
    data = np.frombuffer(bytearray(",".join(texts).encode()), np.uint8)
    ends, bits = np.cumsum([len(t) + 1 for t in texts]) - 1, np.empty(values.size, np.uint64)
    assert _take_all(data, ends, bits, np.empty(FLOAT_WIDTH + SLACK, np.uint8)) == 0
    assert np.array_equal(bits, np.ascontiguousarray(values).view(np.uint64))


def finite(bits: np.ndarray) -> np.ndarray:
    values = bits.view(np.float64)
    return values[np.isfinite(values)]


RNG = np.random.default_rng(20251123)
TWOS = np.ldexp(1.0, np.arange(-1074, 1024))
TENS = np.array([float(f"1e{k}") for k in range(-323, 309)])


@pytest.mark.parametrize("values", [
    pytest.param(finite(RNG.integers(0, 2**64, 100_000, dtype=np.uint64)), id="any bit pattern"),
    pytest.param(finite(RNG.integers(0, 2**64, 400_000, dtype=np.uint64)), id="any bit pattern, more", marks=pytest.mark.slow),
    pytest.param(finite(RNG.integers(0, 2**52, 100_000, dtype=np.uint64)), id="subnormal"),
    pytest.param(finite(RNG.integers(0, 2**52, 50_000, dtype=np.uint64) >> RNG.integers(0, 52, 50_000, dtype=np.uint64)), id="tiny"),
    pytest.param(RNG.random(100_000), id="uniform"),
    pytest.param(10.0 ** RNG.uniform(-8, 20, 100_000), id="every layout"),
    pytest.param(RNG.integers(0, 2**53, 50_000).astype(float), id="integers"),
    pytest.param(RNG.integers(-10**7, 10**7, 50_000) / 1000, id="few digits"),
])
def test_random_floats_are_as_python_writes_them(values):
    same_as_python(values)


@pytest.mark.filterwarnings("ignore:overflow")
def test_edge_floats_are_as_python_writes_them():
    edges = np.concatenate([TWOS, TENS, TWOS * 3, 5 * TENS, np.arange(2000.0), 2.0**53 + np.arange(-999, 999), [0.0, -0.0, 5e-324, 2.2250738585072014e-308,
                            2.225073858507201e-308, 1.7976931348623157e308, 1e-4, 1e-5, 9.999999999999999e-5, 1e15, 1e16, 9999999999999998.0, 2e23, 9.5e-322]])
    edges = edges[np.isfinite(edges)]
    around = np.concatenate([edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf)])
    around = around[np.isfinite(around)]
    same_as_python(np.concatenate([around, -around]))


@settings(max_examples=2000, deadline=None)
@given(st.text(alphabet="0123456789+-.eE nafi_\x00é", max_size=30))
def test_only_canonical_float_texts_are_read(text):
    try:
        canonical = np.isfinite(float(text)) and repr(float(text)) == text
    except ValueError:
        canonical = False
    if canonical:
        assert repr(parse_float(text)) == text
    else:
        with pytest.raises(Seg1aError, match="E_FLOAT_TEXT"):
            parse_float(text)


def test_a_text_that_is_not_the_shortest_is_refused():
    for x in RNG.random(3000):
        text = format_float(x)
        for other in (text + "0", "0" + text, "+" + text, text + "1", f"{x:.17e}", f"{x:.25f}"):
            if repr(float(other)) != other:
                with pytest.raises(Seg1aError, match="E_FLOAT_TEXT"):
                    parse_float(other)


def test_the_shortest_digits_in_any_other_layout_are_refused():
    "The point everywhere, with and without an exponent that corrects it: one text is read, the one that repr prints."
    seen = set()
    for power in range(-9, 21):
        for digits in ("1", "5", "10", "25", "1234567890123456", "12345678901234567", "99999999999999990", *(repr(x)[2:] for x in RNG.uniform(0.1, 1.0, 20).tolist())):
            number = Decimal(digits).scaleb(power - len(digits))
            exact = float(number)
            texts = {format(number, "f"), f"{number:.25f}".rstrip("0"), repr(exact), repr(exact) + "0", "0" + repr(exact)}
            for whole in range(0, len(digits) + 1):
                mantissa = f"{digits[:whole] or '0'}.{digits[whole:] or '0'}"
                exponent = power - whole
                texts |= {mantissa, f"{mantissa}e{exponent:+03d}", f"{mantissa}e{exponent}", f"{mantissa}e{exponent:+d}"}
            for text in texts:
                data = np.frombuffer(bytearray(text.encode()), np.uint8)
                bits, end = take_float(data, 0, data.size, np.empty(FLOAT_WIDTH + SLACK, np.uint8))
                if end == len(text):
                    assert repr(np.uint64(bits).view(np.float64).item()) == text
                    seen.add(text)
                else:
                    assert repr(float(text)) != text, text
    assert len(seen) > 500


def test_integers_in_and_out():
    page = np.empty(20 + SLACK, np.uint8)
    values = np.concatenate([RNG.integers(0, 2**64, 20_000, dtype=np.uint64) >> RNG.integers(0, 64, 20_000, dtype=np.uint64),
                             np.array([10**k + d for k in range(20) for d in (-1, 0, 1)] + [2**64 - 1, 2**63], np.uint64)])
    for v in values:
        end = put_u64(page, 0, v)
        assert page[:end].tobytes() == str(v).encode()
        assert take_u64(page[:end].copy(), 0, end) == (v, end)


def test_integers_that_do_not_fit_or_are_not_canonical_are_refused():
    for text in [b"", b"-1", b" 1", b"00", b"007", b"1" * 21, b"9" * 24, b"1" * 40, *(str(2**64 + d).encode() for d in (0, 1, 5, 10**18, 10**19, 2**66))]:
        data = np.frombuffer(bytearray(text), np.uint8)
        assert take_u64(data, 0, data.size)[1] == -1, text


def test_a_reader_stops_at_stop():
    data = np.frombuffer(bytearray(b"12345678901234567890"), np.uint8)
    for stop in range(1, 20):
        assert take_u64(data, 0, stop) == (int(b"12345678901234567890"[:stop]), stop)
    assert take_u64(data, 20, 20)[1] == -1 and take_float(data, 20, 20, np.empty(FLOAT_WIDTH + SLACK, np.uint8))[1] == -1


# ---------------------------------------------------------------- row programs

EVENT = row_program(
    {"module": "1A.hurdle_sampler", "run_id": "8" * 32, "parameter_hash": "e" * 64, "manifest_fingerprint": "f" * 64, "seed": 2**64 - 1,
     "substream_label": "hurdle_bernoulli", "ts_utc": "2025-10-31T10:00:00.123456Z"},
    {"rng_counter_before_hi": "U64", "rng_counter_before_lo": "U64", "blocks": "U64", "draws": "U64_TEXT", "merchant_id": "I64",
     "pi": "F64", "u": "F64_OR_NULL", "is_multi": (False, True)})
FINAL = row_program({"context": "ztp"}, {"attempts": "I64", "lambda_extra": "F64", "regime": ("inversion", "ptrs"), "reason": (ABSENT, "no_admissible"),
                                         "k": (0, 1, 10, 100, -1, None, "", "x\"y", [1], {"a": 1.5})})
SHORT = row_program({}, {"a": "U64"})


def sample(program, rows: int, rng) -> dict:
    "Random columns of a program, extremes included."
    columns = {}
    for name, kind in program.columns.items():
        bits = rng.integers(0, 2**64, rows, dtype=np.uint64)
        if isinstance(kind, tuple):
            columns[name] = rng.integers(0, len(kind), rows).astype(bool if kind == (False, True) else np.uint8)
        elif kind.startswith("F64"):
            floats = bits.view(np.float64)
            floats = np.where(np.isfinite(floats) & (rng.random(rows) < 0.5), floats, rng.random(rows))
            columns[name] = np.where(rng.random(rows) < 0.2, np.nan, floats) if kind == "F64_OR_NULL" else floats
        else:
            words = bits >> rng.integers(1 if kind == "I64" else 0, 64, rows, dtype=np.uint64)
            columns[name] = words.view(np.int64) if kind == "I64" else words
    return columns


@pytest.mark.parametrize("program", [EVENT, FINAL, SHORT], ids=["event", "final", "short"])
@pytest.mark.parametrize("rows", [0, 1, 2, 3001])
def test_rows_are_canonical_json_and_read_back(program, rows):
    columns = sample(program, rows, np.random.default_rng(rows))
    text = format_rows(program, columns)
    assert text.tobytes() == b"".join(map(canonical_line, row_objects(program, columns)))
    if program is not FINAL:
        for line, row in zip(text.tobytes().splitlines(), row_objects(program, columns)):
            assert json.loads(line) == row and len(line) + 1 <= program.width and len(line) + 1 >= program.least
    back, bad = parse_rows(program, text)
    assert bad == -1
    for name, column in columns.items():
        assert back[name].dtype == column.dtype and np.array_equal(back[name], column, equal_nan=column.dtype == np.float64)


def test_chunks_and_buffers_change_nothing():
    columns = sample(EVENT, 2 * CHUNK + 17, np.random.default_rng(3))
    whole, buffer = format_rows(EVENT, columns).tobytes(), RowBuffer()
    assert b"".join(c.tobytes() for c in format_chunks(EVENT, columns, buffer)) == whole
    assert format_rows(EVENT, columns, buffer).tobytes() == whole
    assert format_rows(EVENT, {k: np.repeat(v, 2)[::2] for k, v in columns.items()}, buffer).tobytes() == whole  # strided columns


def test_a_bad_row_is_named_and_the_rows_before_it_are_read():
    columns = sample(EVENT, 50, np.random.default_rng(4))
    lines = format_rows(EVENT, columns).tobytes().splitlines(keepends=True)
    for row in (0, 1, 25, 49):
        damaged = b"".join(lines[:row]) + lines[row].replace(b'"module":', b'"modul_":') + b"".join(lines[row + 1:])
        back, bad = parse_rows(EVENT, damaged)
        assert bad == row and np.array_equal(back["merchant_id"], columns["merchant_id"][:row])
    for cut in range(1, len(lines[-1])):
        assert parse_rows(EVENT, b"".join(lines)[:-cut])[1] == 49
    assert parse_rows(EVENT, b"".join(lines) + b"{")[1] == 50


def test_text_that_the_writer_does_not_write_is_refused():
    line = format_rows(FINAL, {"attempts": np.array([3]), "lambda_extra": np.array([0.5]), "regime": np.array([1], np.uint8),
                               "reason": np.array([1], np.uint8), "k": np.array([2], np.uint8)}).tobytes()
    assert line == b'{"attempts":3,"context":"ztp","k":10,"lambda_extra":0.5,"reason":"no_admissible","regime":"ptrs"}\n'
    for old, new in [(b":3", b":03"), (b":3", b":-3"), (b":3", b":3.0"), (b":3", b":9223372036854775808"), (b"0.5", b"5e-1"), (b"0.5", b"0.50"), (b"0.5", b"NaN"),
                     (b":10", b":1_"), (b":10", b":101"), (b"ptrs", b"PTRS"), (b"no_admissible", b"no"), (b'"reason":"no_admissible",', b'"reason":null,'),
                     (b"}\n", b"}"), (b"}\n", b"}\r\n"), (b"}\n", b',"x":1}\n'), (b'"context":"ztp",', b""), (b"{", b" {"), (b",", b", ")]:
        assert parse_rows(FINAL, line.replace(old, new, 1))[1] == 0, (old, new)


def writes_the_same(program, data: bytes, buffer: RowBuffer) -> bool:
    "True when the bytes are refused, or the writer writes exactly them."
    columns, bad = parse_rows(program, data, buffer)
    return bad >= 0 or format_rows(program, columns, buffer).tobytes() == data


@pytest.mark.parametrize("program", [EVENT, FINAL, SHORT], ids=["event", "final", "short"])
def test_single_byte_damage_is_refused_or_is_another_legal_file(program):
    rng, buffer = np.random.default_rng(11), RowBuffer()
    good = format_rows(program, sample(program, 3, rng)).tobytes()
    for _ in range(20_000):
        data = bytearray(good)
        place, how = int(rng.integers(len(data))), rng.integers(3)
        if how == 0:
            data[place] = rng.integers(256)
        elif how == 1:
            del data[place]
        else:
            data.insert(place, rng.integers(256))
        assert writes_the_same(program, bytes(data), buffer), bytes(data)


def test_random_damage_is_refused_or_is_another_legal_file():
    rng, buffer = np.random.default_rng(12), RowBuffer()
    parts = [b'{"a":', b"}\n", b"\n", b"18446744073709551615", b"0", b"null", b"1e+16", b'"', b",", b"\x00", b"\xff" * 9]
    files = {p: format_rows(p, sample(p, 2, rng)).tobytes() for p in (EVENT, FINAL, SHORT)}
    for i in range(20_000):
        program = (EVENT, FINAL, SHORT)[i % 3]
        good = files[program]
        kind = rng.integers(4)
        if kind == 0:
            data = rng.bytes(int(rng.integers(0, 200)))
        elif kind == 1:
            data = b"".join(parts[j] for j in rng.integers(0, len(parts), rng.integers(0, 12)))
        elif kind == 2:
            a, b = sorted(rng.integers(0, len(good), 2))
            data = good[:a] + good[b:] + good[a:b]
        else:
            data = bytearray(good)
            for place in rng.integers(0, len(good), 5):
                data[place] = b"0123456789.e-+,:{}\"\n"[rng.integers(20)]
        assert writes_the_same(program, bytes(data), buffer), bytes(data)


def test_a_prefix_of_a_larger_buffer_is_not_read_beyond_its_end():
    line = format_rows(SHORT, {"a": np.array([12345], np.uint64)}).tobytes()
    big = np.frombuffer(bytearray(line * 3), np.uint8)
    for stop in range(len(big) + 1):
        columns, bad = parse_rows(SHORT, big[:stop])
        assert bad == (-1 if stop % len(line) == 0 else stop // len(line))


@pytest.mark.parametrize("column", [np.array([1.0, 2.0]), np.array([-1, 2]), np.array([True, False]), np.array(["1", "2"]), np.array([[1, 2]]), np.array([1])])
def test_wrong_columns_are_refused(column):
    program = row_program({}, {"a": "U64", "b": "U64"})
    with pytest.raises(Seg1aError) as error:
        format_rows(program, {"a": np.array([1, 2]), "b": column})
    assert error.value.code == "E_ROW_PROGRAM" and error.value.detail["column"] == "b"


def test_ids_do_not_pass_through_floats():
    program = row_program({}, {"m": "I64"})
    ids = np.array([2**53 + 1, 2**63 - 1, 9007199254745992 + 1])
    text = format_rows(program, {"m": ids}).tobytes()
    assert [json.loads(line)["m"] for line in text.splitlines()] == ids.tolist()
    assert parse_rows(program, text)[0]["m"].tolist() == ids.tolist()
    with pytest.raises(Seg1aError, match="E_ROW_PROGRAM"):
        format_rows(program, {"m": ids.astype(np.float64)})
    with pytest.raises(Seg1aError, match="E_ROW_PROGRAM"):
        format_rows(program, {"m": np.array([2**63], np.uint64)})


def test_negative_zero_and_extremes_survive():
    program = row_program({}, {"x": "F64"})
    values = np.array([-0.0, 0.0, 5e-324, -5e-324, 1.7976931348623157e308, struct.unpack("<d", b"\x01\0\0\0\0\0\xf0\x3f")[0]])
    back, bad = parse_rows(program, format_rows(program, {"x": values}))
    assert bad == -1 and np.array_equal(back["x"].view(np.uint64), values.view(np.uint64))
