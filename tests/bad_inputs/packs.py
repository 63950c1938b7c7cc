"""Wrong packs: manifest, checksums, files; wrong command lines, places and environments; wrong sources of packs."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
from bad_inputs.cases import S4, THRESHOLDS, Case, command, good, parquet, reindex
from bad_inputs.tables import without_rows, zeroed_rows

from seg1a.core.encoding import canonical_line
from seg1a.inputs.manifest import CHECKSUMS, MANIFEST

SOME = f"config/policy/{THRESHOLDS}"


# ---- manifest and checksums ---------------------------------------------------------------------------------------------


def manifest(change):
    """Edit the parsed manifest."""
    def damage(pack: Path):
        content = json.loads((pack / MANIFEST).read_bytes())
        content = change(content) or content
        (pack / MANIFEST).write_bytes(canonical_line(content))
    return damage


def manifest_text(change):
    return lambda pack: (pack / MANIFEST).write_bytes(change((pack / MANIFEST).read_bytes()))


def checksums(change):
    """Edit the checksums; the manifest then names the new ones."""
    def damage(pack: Path):
        data = change((pack / CHECKSUMS).read_bytes())
        (pack / CHECKSUMS).write_bytes(data)
        manifest(lambda content: content.update(checksums_sha256=hashlib.sha256(data).hexdigest()))(pack)
    return damage


def moved(path: str, also_on_disk: bool = True):
    """The thresholds under another path in both index files, and if possible on disk."""
    def damage(pack: Path):
        if also_on_disk:
            (pack / path).parent.mkdir(parents=True, exist_ok=True)
            (pack / SOME).rename(pack / path)
        content = json.loads((pack / MANIFEST).read_bytes())
        next(a for a in content["artefacts"] if a["path"] == SOME)["path"] = path
        reindex(pack, content)
    return damage


def linked(pack: Path):
    """A file replaced by a link to an equal one outside."""
    outside = pack.parent / "outside.yaml"
    shutil.move(pack / SOME, outside)
    (pack / SOME).symlink_to(outside)


def linked_folder(pack: Path):
    shutil.move(pack / "config", pack.parent / "config")
    (pack / "config").symlink_to(pack.parent / "config")


def in_place(pack: Path, make) -> None:
    (pack / SOME).unlink()
    make(pack / SOME)


def pack_case(defect: str, code: str, names: tuple[str, ...], damage) -> Case:
    return Case(f"pack: {defect}", code, names, 2, damage=damage)


INDEX = [
    pack_case("no manifest", "E_PACK_MANIFEST", (MANIFEST,), lambda pack: (pack / MANIFEST).unlink()),
    pack_case("an empty manifest", "E_PACK_MANIFEST", (MANIFEST,), manifest_text(lambda data: b"")),
    pack_case("a manifest that is a folder", "E_PACK_MANIFEST", (MANIFEST,), lambda pack: [(pack / MANIFEST).unlink(), (pack / MANIFEST).mkdir()]),
    pack_case("a manifest that is a link", "E_PACK_MANIFEST", (MANIFEST,), lambda pack: [(pack / MANIFEST).rename(pack.parent / "m"), (pack / MANIFEST).symlink_to(pack.parent / "m")]),
    pack_case("a manifest that is a pipe", "E_PACK_MANIFEST", (MANIFEST,), lambda pack: [(pack / MANIFEST).unlink(), os.mkfifo(pack / MANIFEST)]),
    pack_case("a manifest of 17 MiB", "E_PACK_MANIFEST", (MANIFEST,), manifest_text(lambda data: data + b" " * (17 << 20))),
    pack_case("a manifest with a byte order mark", "E_PACK_MANIFEST", (MANIFEST, "byte order mark"), manifest_text(lambda data: b"\xef\xbb\xbf" + data)),
    pack_case("a manifest in UTF-16", "E_PACK_MANIFEST", (MANIFEST, "UTF-8"), manifest_text(lambda data: data.decode().encode("utf-16"))),
    pack_case("a manifest nested 100 000 deep", "E_PACK_MANIFEST", (MANIFEST,), manifest_text(lambda data: b"[" * 100_000)),
    pack_case("a manifest with a key twice", "E_PACK_MANIFEST", (MANIFEST, "pack_version", "twice"), manifest_text(lambda data: data.replace(b'{"artefacts"', b'{"pack_version":"x","artefacts"', 1))),
    pack_case("a manifest with NaN", "E_PACK_MANIFEST", (MANIFEST, "NaN"), manifest_text(lambda data: data.replace(b'"parameter_hash":null', b'"parameter_hash":NaN'))),
    pack_case("a manifest with a lone surrogate", "E_PACK_MANIFEST", (MANIFEST,), manifest_text(lambda data: data.replace(b'"parameter_hash":null', b'"parameter_hash":"\\ud800"'))),
    pack_case("a manifest with blanks", "E_PACK_MANIFEST", (MANIFEST, "canonical"), manifest_text(lambda data: data.replace(b",", b", "))),
    pack_case("a manifest that is a list", "E_PACK_MANIFEST", (MANIFEST,), manifest_text(lambda data: b"[]\n")),
    pack_case("another format", "E_PACK_MANIFEST", ("pack_format", "'v9'"), manifest(lambda c: c.update(pack_format="v9"))),
    pack_case("a key too many", "E_PACK_MANIFEST", ("colour",), manifest(lambda c: c.update(colour="red"))),
    pack_case("a key too few", "E_PACK_MANIFEST", ("created_utc",), manifest(lambda c: c.pop("created_utc") and None)),
    pack_case("a size as text", "E_PACK_MANIFEST", ("artefacts[0]", "size_bytes", "'9'"), manifest(lambda c: c["artefacts"][0].update(size_bytes="9"))),
    pack_case("a negative size", "E_PACK_MANIFEST", ("artefacts[0]", "size_bytes", "-1"), manifest(lambda c: c["artefacts"][0].update(size_bytes=-1))),
    pack_case("a size of 2^64", "E_PACK_DIGEST", (str(2**64),), manifest(lambda c: c["artefacts"][0].update(size_bytes=2**64))),
    pack_case("a digest in capitals", "E_PACK_MANIFEST", ("artefacts[0]", "sha256"), manifest(lambda c: c["artefacts"][0].update(sha256=c["artefacts"][0]["sha256"].upper()))),
    pack_case("another digest in the manifest alone", "E_PACK_DIGEST", ("different digests",), manifest(lambda c: c["artefacts"][0].update(sha256="0" * 64))),
    pack_case("artefacts out of order", "E_PACK_MANIFEST", ("ascending",), manifest(lambda c: c["artefacts"].reverse())),
    pack_case("an artefact twice", "E_PACK_MANIFEST", ("ascending",), manifest(lambda c: c["artefacts"].insert(0, c["artefacts"][0]))),
    pack_case("no artefact", "E_PACK_MANIFEST", ("artefacts",), manifest(lambda c: c.update(artefacts=[]))),
    pack_case("another role than the registry's", "E_PACK_MANIFEST", (SOME, "registry"), manifest(lambda c: next(a for a in c["artefacts"] if a["path"] == SOME).update(role="reference", in_parameter_hash=False))),
    pack_case("no checksums", "E_PACK_FILE_SET", (CHECKSUMS,), lambda pack: (pack / CHECKSUMS).unlink()),
    pack_case("checksums with CRLF", "E_PACK_PATH", ("hurdle_coefficients.yaml\\r",), checksums(lambda data: data.replace(b"\n", b"\r\n"))),
    pack_case("checksums without a line end", "E_PACK_FILE_SET", (CHECKSUMS, "line end"), checksums(lambda data: data[:-1])),
    pack_case("checksums in binary mode", "E_PACK_FILE_SET", (CHECKSUMS, "line 1"), checksums(lambda data: data.replace(b"  ", b" *"))),
    pack_case("a line of the checksums twice", "E_PACK_FILE_SET", (CHECKSUMS,), checksums(lambda data: data + data.splitlines(keepends=True)[0])),
    pack_case("a line of the checksums missing", "E_PACK_FILE_SET", (CHECKSUMS, "lacks"), checksums(lambda data: b"".join(data.splitlines(keepends=True)[1:]))),
    pack_case("other checksums than the manifest names", "E_PACK_DIGEST", (CHECKSUMS,), manifest(lambda c: c.update(checksums_sha256="0" * 64))),
    pack_case("an expected parameter hash that is another", "E_LINEAGE_EXPECTED_MISMATCH", ("parameter_hash", "1" * 64), manifest(lambda c: c.update(parameter_hash="1" * 64))),
]
INDEX[-1] = Case(INDEX[-1].defect, INDEX[-1].code, INDEX[-1].names, 1, damage=INDEX[-1].damage)

FILES = [
    pack_case("an absolute path", "E_PACK_PATH", ("/etc/passwd",), moved("/etc/passwd", False)),
    pack_case("a path that climbs", "E_PACK_PATH", ("../",), moved("../outside.yaml", False)),
    pack_case("a path that climbs and comes back", "E_PACK_PATH", (".." ,), moved(f"config/../config/policy/{THRESHOLDS}", False)),
    pack_case("a path with an empty name", "E_PACK_PATH", ("//",), moved(f"config//policy/{THRESHOLDS}", False)),
    pack_case("a path with a backslash", "E_PACK_PATH", ("backslash",), moved(f"config\\{THRESHOLDS}", False)),
    pack_case("a path with a NUL", "E_PACK_PATH", ("printable",), moved("config/a\0b", False)),
    pack_case("a path with a line end", "E_PACK_PATH", ("printable",), moved("config/a\nb")),
    pack_case("a path in Cyrillic letters", "E_PACK_PATH", ("printable",), moved("config/\u043f\u043e\u043b\u0438\u0442\u0438\u043a\u0430.yaml")),
    pack_case("a file that nobody listed, under a name in Greek", "E_PACK_PATH", ("printable",), lambda pack: (pack / "config" / "\u03bb.yaml").write_text("x")),
    pack_case("a file under a name that is no UTF-8", "E_PACK_PATH", ("printable",), lambda pack: open(os.fsencode(pack) + b"/config/\xff.yaml", "w").close()),
    pack_case("a file that nobody listed", "E_PACK_FILE_SET", ("notes.txt",), lambda pack: (pack / "notes.txt").write_text("x")),
    pack_case("a hidden file that nobody listed", "E_PACK_FILE_SET", (".hidden",), lambda pack: (pack / "config" / ".hidden").write_text("x")),
    pack_case("a file missing", "E_PACK_FILE_SET", (SOME,), lambda pack: (pack / SOME).unlink()),
    pack_case("a file replaced by a link", "E_PACK_PATH", (SOME, "symlink"), linked),
    pack_case("a folder replaced by a link", "E_PACK_PATH", ("config", "symlink"), linked_folder),
    pack_case("a link that leads nowhere", "E_PACK_PATH", ("loop", "symlink"), lambda pack: (pack / "loop").symlink_to("loop")),
    pack_case("a file replaced by a folder", "E_PACK_FILE_SET", (SOME,), lambda pack: in_place(pack, Path.mkdir)),
    pack_case("a file replaced by a pipe", "E_PACK_PATH", (SOME, "special"), lambda pack: in_place(pack, os.mkfifo)),
    pack_case("one byte more", "E_PACK_DIGEST", (S4, "bytes"), lambda pack: open(next(pack.rglob(S4)), "ab").write(b"\n")),
    pack_case("one byte changed", "E_PACK_DIGEST", (S4, "other bytes"), lambda pack: next(pack.rglob(S4)).write_bytes(next(pack.rglob(S4)).read_bytes().replace(b"-1.0", b"-1.1"))),
    pack_case("folders 300 deep", "E_PACK_FILE_SET", ("x",), lambda pack: [(pack / "/".join(["x"] * 300)).mkdir(parents=True), (pack / "/".join(["x"] * 300) / "x").write_text("x")]),
]


# ---- flags, places, environment -----------------------------------------------------------------------------------------


def usage(defect: str, names: tuple[str, ...], *flags: str, code: str = "E_USAGE", exit: int = 2, **more) -> Case:
    return Case(f"flags: {defect}", code, names, exit, flags=flags, **more)


FLAGS = [
    usage("a negative seed", ("--seed", "'-1'"), "--seed=-1"),
    usage("a seed of 2^64", ("--seed", str(2**64)), "--seed", str(2**64)),
    usage("a seed of 10^30", ("--seed",), "--seed", "1" + "0" * 30),
    usage("a seed with an exponent", ("--seed", "'1e3'"), "--seed", "1e3"),
    usage("a hexadecimal seed", ("--seed", "'0x10'"), "--seed", "0x10"),
    usage("a seed with an underscore", ("--seed", "'1_000'"), "--seed", "1_000"),
    usage("a seed in Arabic digits", ("--seed",), "--seed", "\u0661\u0662"),
    usage("an empty seed", ("--seed", "''"), "--seed", ""),
    good("flags: the largest seed", flags=("--seed", str(2**64 - 1))),
    usage("a start time of 2^64", ("--start-time-ns",), "--start-time-ns", str(2**64)),
    usage("a commit of 39 digits", ("--git-commit",), "--git-commit", "a" * 39),
    usage("a commit that is a branch", ("--git-commit", "'main'"), "--git-commit", "main"),
    usage("an expected hash of 63 digits", ("--expect-parameter-hash",), "--expect-parameter-hash", "0" * 63),
    usage("an expected hash that is another", ("parameter_hash", "0" * 64), "--expect-parameter-hash", "0" * 64, code="E_LINEAGE_EXPECTED_MISMATCH", exit=1),
    usage("an expected fingerprint that is another", ("manifest_fingerprint", "0" * 64), "--expect-manifest-fingerprint", "0" * 64, code="E_LINEAGE_EXPECTED_MISMATCH", exit=1),
    usage("sites without counts", ("--s3-integerisation",), "--s3-sequencing", code="ERR_S3_PRECONDITION"),
    usage("no worker", ("--workers", "'0'"), "--workers", "0"),
    usage("half a worker", ("--workers", "'1.5'"), "--workers", "1.5"),
    usage("a time-out of zero", ("--state-timeout", "'0'"), "--state-timeout", "0"),
    usage("an unknown flag", ("--colour",), "--colour"),
    usage("a flag without its value", ("--seed",), "--seed"),
    usage("another version than the pack's", ("'9'",), "--artefact-version", "9"),
    usage("a table that is not there", ("{tmp}/nowhere.parquet",), "--merchant-table", "{tmp}/nowhere.parquet"),
    usage("a table that is a folder", ("{tmp}",), "--gdp-table", "{tmp}"),
    usage("a table that is a device", ("/dev/zero",), "--gdp-table", "/dev/zero"),
    usage("a parameter without a path", ("--param", "NAME=PATH"), "--param", "x.yaml"),
    usage("a parameter whose name climbs", ("--param",), "--param", "../x.yaml={tmp}/x.yaml", files={"x.yaml": b"a: 1\n"}),
    usage("a parameter that the registry does not know", ("x.yaml",), "--param", "x.yaml={tmp}/x.yaml", files={"x.yaml": b"a: 1\n"}, code="E_PACK_SOURCE"),
    usage("a parameter twice", (S4, "twice"), "--param", f"{S4}={{tmp}}/x", "--param", f"{S4}={{tmp}}/x", files={"x": b"a: 1\n"}),
    usage("a numeric policy alone", ("--math-profile",), "--numeric-policy", "{tmp}/x.json", files={"x.json": b"{}"}),
    usage("an output folder that is a file", ("--output-dir", "{tmp}/x"), "--output-dir", "{tmp}/x", files={"x": b""}),
    usage("an output folder below a file", ("{tmp}/x",), "--output-dir", "{tmp}/x/y", files={"x": b""}),
    usage("an output folder where nothing can be made", ("/proc/seg1a",), "--output-dir", "/proc/seg1a", code="E_WRITE_FAIL", exit=1, evidence=False),
    usage("an empty output folder", ("--output-dir", "empty"), "--output-dir", ""),
    usage("a result below a file", ("--result-json", "{tmp}/x"), "--result-json", "{tmp}/x/y.json", files={"x": b""}),
    usage("a result that is a folder", ("--result-json", "{tmp}"), "--result-json", "{tmp}"),
    usage("a pack that is not there", ("{tmp}/nowhere",), "--pack", "{tmp}/nowhere", code="E_PACK_MANIFEST"),
    usage("a pack that is a file", ("{tmp}/x",), "--pack", "{tmp}/x", files={"x": b""}, code="E_PACK_MANIFEST"),
    usage("a pack of an unknown kind", ("gopher",), "--pack", "gopher://x/y", code="E_STORE_URI"),
    usage("a pack under a name that is no UTF-8", ("nowhere",), "--pack", "{tmp}/nowhere-\udcff", code="E_PACK_MANIFEST"),
    usage("an empty pack", ("--pack",), "--pack", ""),
    good("flags: an output folder under a name in Greek", flags=("--output-dir", "{out}/\u03bb")),
    good("environment: workers that are no number", environment={"SEG1A_WORKERS": "many"}),
    good("environment: a Turkish locale, another zone, a narrow screen", environment={"LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Chatham", "COLUMNS": "1"}),
    good("environment: a zone that does not exist", environment={"TZ": "Nowhere/Atall"}),
    good("environment: no folder for temporary files", environment={"TMPDIR": "/proc/nowhere"}),
]

COMMANDS = [
    command("commands: none", "E_USAGE", ("COMMAND",)),
    command("commands: an unknown one", "E_USAGE", ("'walk'",), "walk"),
    command("commands: verify nothing", "E_ROOT_NOT_FOUND", ("{tmp}/nowhere",), "verify", "{tmp}/nowhere"),
    command("commands: verify a file", "E_ROOT_NOT_FOUND", ("{tmp}/x",), "verify", "{tmp}/x", files={"x": b""}),
    command("commands: verify a pack", "E_ROOT_NOT_FOUND", ("{pack}",), "verify", "{pack}"),
    command("commands: verify a root that is no JSON", "E_VERIFY_FAILED", ("{tmp}",), "verify", "{tmp}", files={"run_root.json": b"{"}, exit=1),
    command("commands: verify a root of another shape", "E_VERIFY_FAILED", ("{tmp}",), "verify", "{tmp}", files={"run_root.json": b"[]\n"}, exit=1),
    command("commands: validate nothing", "E_ROOT_NOT_FOUND", ("{tmp}/nowhere",), "validate", "{tmp}/nowhere"),
    command("commands: validate a root that does not know its pack", "E_PACK_UNKNOWN", ("pack",), "validate", "{tmp}", files={"run_root.json": b"[]\n"}),
    command("commands: alerts of nothing", "E_ROOT_NOT_FOUND", ("{tmp}/nowhere",), "alerts", "{tmp}/nowhere"),
    command("commands: seal nothing", "E_ROOT_NOT_FOUND", ("{tmp}/nowhere",), "seal", "{tmp}/nowhere"),
    command("commands: promote nothing", "E_ROOT_NOT_FOUND", ("{tmp}/nowhere",), "promote", "{tmp}/nowhere", "{tmp}/kept"),
    command("commands: stage nothing", "E_PACK_MANIFEST", ("{tmp}/nowhere",), "stage", "{tmp}/nowhere", "{tmp}/staged"),
    command("commands: retain by a policy that is a list", "E_RETENTION_POLICY", ("x.yaml",), "retain", "{tmp}/kept", "--policy", "{tmp}/x.yaml", files={"x.yaml": b"[]\n", "kept/x": b""}),
    command("commands: retain by a policy that is not there", "E_RETENTION_POLICY", ("nowhere.yaml",), "retain", "{tmp}/kept", "--policy", "{tmp}/nowhere.yaml", files={"kept/x": b""}),
    command("commands: verify a pack that is none", "E_PACK_MANIFEST", ("{tmp}/nowhere",), "pack", "verify", "{tmp}/nowhere"),
]


# ---- sources of packs ---------------------------------------------------------------------------------------------------

HEADER = "merchant_id,mcc,channel,home_country_iso\n"


def source(defect: str, content: str | bytes, *names: str, code: str = "E_PACK_TABLE", name: str = "m.csv") -> Case:
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    return command(f"sources: {defect}", code, names, "pack", "build", "{out}/built", "--merchants", f"{{tmp}}/{name}", "--reference", "{checkout}/reference", "--policies", "{checkout}/policies",
                   "--quiet", files={name: data}, exit=0 if code == "PASS" else 2)


ROW = ",5411,card_present,GB\n"


def parquet_source(change=lambda data: data, column: pa.Array = pa.array([1])) -> bytes:
    """One merchant as Parquet, damaged."""
    return change(parquet(pa.table({"merchant_id": column, "mcc": [5411], "channel": ["card_present"], "home_country_iso": ["GB"]})))


SOURCES = [
    source("an id as float", HEADER + "1.0" + ROW, "row 1", "merchant_id", "'1.0'"),
    source("an id with an exponent", HEADER + "1e3" + ROW, "row 1", "merchant_id", "'1e3'"),
    source("an id of 2^63", HEADER + f"1{ROW}{2**63}" + ROW, "row 2", "merchant_id", str(2**63)),
    source("an id of 400 digits", HEADER + "9" * 400 + ROW, "row 1", "merchant_id"),
    source("an id with a blank", HEADER + " 1" + ROW, "row 1", "merchant_id", "' 1'"),
    source("an id with an underscore", HEADER + "1_000" + ROW, "row 1", "'1_000'"),
    source("an id in Arabic digits", HEADER + "\u0661" + ROW, "row 1", "merchant_id"),
    source("no id", HEADER + ROW, "row 1", "merchant_id", "empty"),
    source("an id with a leading zero", HEADER + "007" + ROW, "row 1", "'007'"),
    source("a field too few", HEADER + "1,5411,card_present\n", "row 1"),
    source("a field too many", HEADER + "1,5411,card_present,GB,x\n", "row 1"),
    source("a column missing", "merchant_id,mcc,channel\n1,5411,card_present\n", "home_country_iso"),
    source("a column twice", "merchant_id,mcc,mcc,channel,home_country_iso\n1,1,1,card_present,GB\n", "mcc"),
    source("an empty file", "", "m.csv"),
    source("a quotation that never ends", HEADER + '"1' + ROW, "m.csv"),
    source("UTF-16", (HEADER + "1" + ROW).encode("utf-16"), "m.csv", code="E_PACK_SOURCE"),
    source("Latin-1", (HEADER + "1,5411,card_present,\xc9\n").encode("latin-1"), "m.csv"),
    source("a NUL byte", HEADER.encode() + b"1\x00" + ROW.encode(), "row 1"),
    source("semicolons", (HEADER + "1" + ROW).replace(",", ";"), "merchant_id"),
    command("sources: no such file", "E_PACK_SOURCE", ("nowhere.csv",), "pack", "build", "{out}/built", "--merchants", "{tmp}/nowhere.csv", "--reference", "{checkout}/reference", "--policies", "{checkout}/policies"),
    source("Parquet without its rows", parquet_source(without_rows), "m.parquet", name="m.parquet"),
    source("Parquet with rows of zeros", parquet_source(zeroed_rows), "m.parquet", name="m.parquet"),
    source("Parquet with ids as double", parquet_source(column=pa.array([1.0])), "m.parquet", "merchant_id", "double", name="m.parquet"),
    source("Parquet with an id of 2^63", parquet_source(column=pa.array([2**63], pa.uint64())), "m.parquet", "merchant_id", str(2**63), name="m.parquet"),
    source("Parquet with a null id", parquet_source(column=pa.array([None], pa.int64())), "m.parquet", "row 1", "merchant_id", name="m.parquet"),
    source("no Parquet", b"PAR1", "m.parquet", name="m.parquet"),
    source("a byte order mark and CRLF", ("\ufeff" + HEADER + "1" + ROW + f"{2**63 - 1}" + ROW).replace("\n", "\r\n"), code="PASS"),
    command("sources: no merchant", "E_PACK_SNAPSHOT", ("merchants", "0"), "pack", "build", "{out}/built", "--merchants", "0", "--reference", "{checkout}/reference", "--policies", "{checkout}/policies"),
    command("sources: a destination below a file", "E_PACK_WRITE", ("{tmp}/x",), "pack", "build", "{tmp}/x/y", "--merchants", "5", "--reference", "{checkout}/reference", "--policies", "{checkout}/policies", files={"x": b""}),
    command("sources: a destination that exists", "E_PACK_EXISTS", ("{tmp}",), "pack", "build", "{tmp}", "--merchants", "5", "--reference", "{checkout}/reference", "--policies", "{checkout}/policies", files={"x": b""}),
]

CASES = INDEX + FILES + FLAGS + COMMANDS + SOURCES
