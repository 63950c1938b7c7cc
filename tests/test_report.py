"""The report of a run: what it says of every verdict, the same bytes for the same run, hostile runs, and how it looks in a browser."""

import json
import os
import random
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from page_support import NARROW, WIDE, chromium, watched  # noqa: F401
from run_support import FLAGS, LANES, last_line, run_root

from seg1a.core.errors import code_table
from seg1a.core.run import Options
from seg1a.operations.pipeline import RunRequest, run_pipeline
from seg1a.operations.report import report_page, run_facts

HOSTILE = '"><script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)>\u202e<style>*{display:none}</style>'
TAGS = set("html head meta title style body header main section footer h1 h2 h3 h4 h5 h6 p ul ol li dl dt dd div span b em strong code pre blockquote br hr details summary "
           "table caption thead tbody tr th td svg rect circle line path text img".split())
VOID = {"meta", "br", "hr", "img"}


class Reader(HTMLParser):
    """The tags, attributes and text of a page; fails at what no report may hold, and at tags that do not match."""

    def __init__(self, page: bytes):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(page.decode())
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag in TAGS, tag
        for name, value in attributes:
            assert not name.startswith("on") and name not in ("style", "href", "xlink:href", "srcset", "action", "id"), (tag, name, value)
            assert name != "src" or value.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,")), value
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data


def report(root: Path) -> Reader:
    return Reader(report_page(root))


def top(page: Reader) -> str:
    """What stands before the first section that every report has."""
    head, section, _ = page.text.partition("Before you sign")
    return head if section else page.text.partition("In brief")[0]


def copied(root: Path, to: Path) -> Path:
    """A copy of a run root under the same two folders."""
    place = to / root.parent.name / root.name
    shutil.copytree(root, place, symlinks=True)
    return place


@pytest.fixture(scope="module")
def full_run(seg1a, small_pack, tmp_path_factory) -> Path:
    """A run of all lanes with its audit notebooks. Read only."""
    return run_root(seg1a("run", "--pack", small_pack, "--output-dir", tmp_path_factory.mktemp("full"), *FLAGS, *LANES, "--quiet"))


def in_process(pack: Path, to: Path, options: Options, **more) -> dict:
    return run_pipeline(RunRequest(pack, to, 7, "ab" * 20, 1_700_000_000_000_000_000, options, **more))


@pytest.fixture(scope="module")
def withheld_run(small_pack, tmp_path_factory) -> Path:
    """A run whose last validator was switched off. Read only."""
    summary = in_process(small_pack, tmp_path_factory.mktemp("withheld"), Options(notebooks=False, validate=(True, True, True, True, False)))
    assert summary["gate"]["status"] == "WITHHELD"
    return Path(summary["output_dir"])


def test_a_run_that_passed(full_run, seg1a):
    page, facts = report(full_run), run_facts(full_run)
    verdict = json.loads(seg1a("verify", full_run, "--json").stdout.splitlines()[0])
    assert "PASS" in top(page) and "FAIL" not in page.text.partition("Audit notebooks")[0] and page.text.count(verdict["flag_sha256_hex"]) == 1
    assert f"{verdict['files']} files" in page.text and "all five were validated" in page.text and "Signature" in page.text
    for lineage in json.loads((full_run / "run_root.json").read_bytes()).values():
        assert str(lineage) in page.text
    for heading in ("Before you sign", "The universe", "What is signed", "Alerts", "States", "Corridors", "Who may leave home", "By class of the deciding rule", "By home country",
                    "Where the outlets are", "Checks", "Inputs", "Audit notebooks"):
        assert heading in page.text, heading
    assert page.tags.count("svg") > 60 and page.tags.count("img") >= 9 and [one["sealed"] for one in facts["notebooks"]] == [True] * 5
    assert {row["name"] for row in facts["ladder"]["by_class"]} <= {"DENY", "ALLOW", "CLASS", "LEGAL", "THRESHOLD", "DEFAULT"} and "An output of type" not in page.text


def test_the_counts_are_those_of_the_data(full_run):
    facts = run_facts(full_run)
    table = pq.ParquetFile(next(full_run.glob("parameter_scoped/*/s3_eligibility.parquet"))).read()
    leave = sum(table["eligible_crossborder"].to_pylist())
    assert sum(row["leave"] for row in facts["ladder"]["by_country"]) == leave and sum(row["stay"] for row in facts["ladder"]["by_class"]) == table.num_rows - leave
    counts = pq.ParquetFile(next(full_run.glob("parameter_scoped/*/s3_integerised_counts.parquet"))).read()
    assert sum(count for _, count in facts["ladder"]["outlets_by_country"]) == sum(counts["count"].to_pylist())
    events = [len(path.read_bytes().splitlines()) for path in full_run.glob("logs/rng/events/*/*/*/*/*.jsonl")]
    assert sum(state["events"] for state in facts["states"]) == sum(events)


@pytest.mark.parametrize("pattern", ["parameter_scoped/*/s3_candidate_set.parquet", "logs/rng/events/nb_final/*/*/*/*.jsonl", "validation_bundle/*/notebooks/s2.ipynb",
                                     "validation_bundle/*/s2_nb_outlets/corridors.json", "validation/*/execution_stamp.json"])
def test_one_changed_byte_stands_on_top(full_run, tmp_path, pattern):
    root = copied(full_run, tmp_path)
    path = next(root.glob(pattern))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    page = report(root)
    assert "FAIL" in top(page) and "E_VERIFY_FAILED" in top(page) and "does not hold" in top(page) and path.name in top(page) and "Signature" not in page.text
    assert code_table()["E_VERIFY_FAILED"].remedy in top(page)


def test_a_flag_that_is_gone_or_forged(full_run, tmp_path):
    root = copied(full_run, tmp_path)
    flag = next(root.glob("validation_bundle/*/_passed.flag"))
    flag.write_text(f"sha256_hex = {'0' * 64}\n")
    assert "E_VERIFY_FAILED" in top(report(root))
    flag.unlink()
    assert "E_VERIFY_FAILED" in top(report(root)) and run_facts(root)["gate"]["flag_sha256_hex"] is None


def test_a_run_that_was_withheld(withheld_run, tmp_path):
    page = report(withheld_run)
    assert "WITHHELD" in top(page) and "validator of S4" in top(page) and "seg1a seal" in top(page) and "FAIL" not in top(page) and "Signature" not in page.text
    root = copied(withheld_run, tmp_path)
    with open(next(root.glob("parameter_scoped/*/s3_eligibility.parquet")), "ab") as file:
        file.write(b"\n")
    assert "E_VERIFY_FAILED" in top(report(root)) and "WITHHELD" not in top(report(root))


def test_a_run_that_failed_in_its_validator(seg1a, checkout, small_pack, tmp_path):
    policy = tmp_path / "strict.yaml"
    policy.write_text((checkout / "policies/validation_policy.yaml").read_text().replace("rho_reject_max: 0.06", "rho_reject_max: 1.0e-9"))
    done = seg1a("run", "--pack", small_pack, "--output-dir", tmp_path / "runs", "--validation-policy", policy, *FLAGS, "--no-notebooks", "--quiet")
    root = next((tmp_path / "runs").glob("parameter_hash=*/run_id=*"))
    page, facts, record = report(root), run_facts(root), code_table()["corridor_breach:rho"]
    assert last_line(done).startswith("FAIL corridor_breach:rho") and facts["gate"]["code"] == "corridor_breach:rho"
    assert "FAIL" in top(page) and "stopped in S2" in top(page) and record.meaning in top(page) and record.remedy in top(page) and "rho_reject = " in top(page)
    assert [state["status"] for state in facts["states"]] == ["passed", "passed", "failed", "not run", "not run"] and "Corridors: 1 of 4" in page.text
    (tmp_path / "link").symlink_to(root)
    moved = copied(root, tmp_path / "moved")
    assert len({report_page(place) for place in (root, tmp_path / "link", Path(os.path.relpath(root)), moved)}) == 1, "the report depends on how the run is named, or where it is"
    assert "Who may leave home" not in page.text and str(tmp_path) not in page.text and "Signature" not in page.text


def test_a_run_that_failed_before_it_had_a_name(small_pack, tmp_path):
    summary = in_process(small_pack, tmp_path / "runs", Options(notebooks=False), expect_parameter_hash="0" * 64)
    page = report(Path(summary["output_dir"]))
    assert "FAIL" in top(page) and "E_LINEAGE_EXPECTED_MISMATCH" in top(page) and code_table()["E_LINEAGE_EXPECTED_MISMATCH"].remedy in top(page) and str(tmp_path) not in page.text


def test_a_run_that_was_killed(full_run, tmp_path):
    root = copied(full_run, tmp_path)
    shutil.rmtree(root / "validation_bundle")
    assert "E_RUN_OPEN" in top(report(root)) and "killed" in top(report(root))


def test_a_failure_record_beside_a_seal_that_holds(full_run, tmp_path):
    root = copied(full_run, tmp_path)
    place = root / "validation/failures/manifest_fingerprint=x/seed=1/run_id=y"
    place.mkdir(parents=True)
    (place / "failure.json").write_text(json.dumps({"error_code": "E_INTERNAL", "state": "seal", "detail": {"message": "odd"}}))
    page = report(root)
    assert "PASS" in top(page) and "What went wrong" in top(page) and "beside a seal that holds" in page.text


def test_the_same_run_gives_the_same_bytes(small_pack, tmp_path, seg1a):
    pages = []
    for number, place in enumerate((tmp_path / "one", tmp_path / "two" / "deeper")):
        root = Path(in_process(small_pack, place, Options(notebooks=False), workers=1 + number)["output_dir"])
        pages.append(report_page(root))
    assert pages[0] == pages[1] and str(tmp_path).encode() not in pages[0]
    assert seg1a("report", root, "-o", "-", TZ="Asia/Tokyo", LC_ALL="C", cwd=tmp_path).stdout.encode() == pages[0]


def hostile_run(root: Path) -> Path:
    """Hostile texts wherever a text of a run comes to a reader: notebook, warning, rule, failure, stamp, check, corridor."""
    def change(pattern: str, edit) -> None:
        for path in root.glob(pattern):
            content = json.loads(path.read_bytes())
            edit(content)
            path.write_text(json.dumps(content))

    def notebook(content: dict) -> None:
        source = {"cell_type": "markdown", "source": f"# {HOSTILE}\n\n[x](javascript:alert(3)) ![y](https://evil.example/y)\n\n| {HOSTILE} |\n|--:|\n| x |\n\n```{HOSTILE}\n{HOSTILE}\n```\n"}
        outputs = [{"output_type": "display_data", "data": {"text/html": HOSTILE}}, {"output_type": "stream", "name": "stdout", "text": HOSTILE}, {"output_type": "error", "ename": HOSTILE, "evalue": HOSTILE},
                   {"output_type": "display_data", "data": {"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9' onload='alert(4)'><script>alert(5)</script><image href='https://evil.example/z'/></svg>"}},
                   {"output_type": "display_data", "data": {"image/png": HOSTILE, "text/markdown": source["source"]}}, {"output_type": "execute_result", "data": {"text/plain": HOSTILE}}, HOSTILE]
        content["cells"] += [source, {"cell_type": "code", "source": HOSTILE, "outputs": outputs}]

    change("validation_bundle/*/notebooks/s1.ipynb", notebook)
    change("validation/*/run_id=*/s*/summary.json", lambda content: content.update(warnings=[HOSTILE], rows={HOSTILE: HOSTILE}))
    change("validation/*/run_id=*/s3/summary.json", lambda content: [rule.update({"class": HOSTILE, "reason_code": HOSTILE}) for rule in content["ladder"]])
    change("validation/*/execution_stamp.json", lambda content: content.update(pack_version=HOSTILE, cli_flags={**content["cli_flags"], HOSTILE: HOSTILE}))
    change("validation_bundle/*/s4_ztp_target/corridors.json", lambda content: [row.update(name=HOSTILE, status=HOSTILE) for row in content["corridors"]])
    change("validation_bundle/*/s1_hurdle/report.json", lambda content: [row.update(title=HOSTILE, status=HOSTILE) for row in content["validators"].values()])
    table = next(root.glob("parameter_scoped/*/s3_eligibility.parquet"))
    rows = pq.ParquetFile(table).read()
    place = rows.schema.get_field_index("decision_rule_id")
    pq.write_table(rows.set_column(place, rows.schema.field(place), [[HOSTILE] * rows.num_rows]), table)
    failure = root / "validation/failures/manifest_fingerprint=x/seed=1/run_id=y"
    failure.mkdir(parents=True)
    (failure / "failure.json").write_text(json.dumps({"error_code": HOSTILE, "failure_class": HOSTILE, "state": HOSTILE, "merchant_id": HOSTILE, "detail": {"message": HOSTILE, HOSTILE: [HOSTILE]}}))
    return root


def test_hostile_texts_are_texts(full_run, tmp_path):
    root = hostile_run(copied(full_run, tmp_path))
    page = report_page(root)  # `Reader` refuses every tag and attribute that is none of ours
    found = Reader(page)
    assert found.text.count("<script>alert(1)</script>") > 40 and b"<script" not in page and b"\xe2\x80\xae" not in page and "\\u202e" in found.text
    assert "An output of type text/html is not shown." in found.text and "javascript:alert(3)" in found.text


def test_nothing_refers_to_anywhere(full_run):
    page = report_page(full_run).decode()
    for word in ("http://", "https://", "//cdn", "url(", "@import", "<link", "<script", "<iframe", "<base", "srcset", "unsafe-inline"):
        assert word not in page, word
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in unescape(page.partition("</head>")[0])


def test_links_are_not_followed(full_run, tmp_path):
    secret = tmp_path / "secret.ipynb"
    secret.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": "top secret"}]}))
    root = copied(full_run, tmp_path)
    shutil.rmtree(root / "logs/telemetry")
    notebook = next(root.glob("validation_bundle/*/notebooks/s1.ipynb"))
    notebook.unlink()
    notebook.symlink_to(secret)
    folder = next(root.glob("validation_bundle/*/s2_nb_outlets"))
    shutil.move(folder, tmp_path / "away")
    folder.symlink_to(tmp_path / "away")
    page, facts = report(root), run_facts(root)
    assert "top secret" not in page.text and "E_VERIFY_FAILED" in top(page) and [one["state"] for one in facts["notebooks"]] == ["S0", "S2", "S3", "S4"]
    assert not any(row["state"] == "S2" for row in facts["corridors"]) and facts["cusum"] == []


JUNK = [None, True, -1, 0, 0.5, 10**300, 2**70, "x", HOSTILE, [], {}, [None], {"a": None}, [[1]], float("nan")]


def mutated(value: object, chance: random.Random) -> object:
    """A JSON value with some of its parts replaced by junk."""
    if chance.random() < 0.08:
        return chance.choice(JUNK)
    if isinstance(value, dict):
        return {key: mutated(entry, chance) for key, entry in value.items() if chance.random() > 0.03}
    return [mutated(entry, chance) for entry in value[:50]] if isinstance(value, list) else value


def test_no_damage_ends_in_a_traceback(withheld_run, tmp_path):
    root = copied(withheld_run, tmp_path)
    documents = {path: json.loads(path.read_bytes()) for path in sorted(root.rglob("*.json"))}
    assert len(documents) > 20
    for seed in range(8):
        chance = random.Random(seed)
        for path, content in documents.items():
            keep = path.name == "run_root.json" and seed % 5  # else all other documents would be out of reach
            path.write_text(json.dumps(content if keep else mutated(content, chance), allow_nan=True))
        report(root)
    for path in [path for path in root.rglob("*") if path.is_file() and path.name != "run_root.json"]:
        path.write_bytes(b"\x00\xff" + path.read_bytes()[:100])
    assert "FAIL" in top(report(root))
    for path in sorted(root.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "E_RUN_OPEN" in top(report(root))


def test_the_command(full_run, seg1a, tmp_path):
    root = copied(full_run, tmp_path / "runs")
    place = root.parent / f"report-{root.name.removeprefix('run_id=')}.html"
    done = seg1a("report", root)
    assert done.returncode == 0 and done.stdout == f"REPORTED {place}: PASS\n" and done.stderr == "" and seg1a("verify", root).returncode == 0
    first = place.read_bytes()
    place.write_text("an older report")
    assert seg1a("report", root).returncode == 0 and place.read_bytes() == first and sorted(path.name for path in root.parent.iterdir()) == sorted([root.name, place.name])
    done = seg1a("report", root, "--json", "-o", tmp_path / "new" / "x.html")
    facts = json.loads(done.stdout.splitlines()[0])
    assert facts["gate"]["status"] == "PASS" and (tmp_path / "new/x.html").read_bytes() == first and facts == json.loads(json.dumps(run_facts(root)))


def test_the_refusals_of_the_command(passed_run, seg1a, tmp_path):
    (tmp_path / "file").write_text("x")
    for words, status, code in ((["-o", passed_run / "x.html"], 2, "E_REPORT_PLACE"), (["-o", passed_run / "logs/telemetry/x.html"], 2, "E_REPORT_PLACE"), (["-o", tmp_path], 2, "E_REPORT_PLACE"),
                                (["-o", "-", "--json"], 2, "E_USAGE"), (["-o", tmp_path / "file" / "x.html"], 1, "E_WRITE_FAIL")):
        done = seg1a("report", passed_run, *words)
        assert (done.returncode, done.stdout.split()[:2]) == (status, ["FAIL", code]) and "Traceback" not in done.stderr, words
    assert seg1a("report", tmp_path).stdout.startswith("FAIL E_ROOT_NOT_FOUND") and seg1a("verify", passed_run).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_promoted_run(passed_run, seg1a, tmp_path):
    place = last_line(seg1a("promote", passed_run, tmp_path / "kept", "--quiet")).removeprefix("PROMOTED ")
    done = seg1a("report", place)
    assert done.returncode == 2 and done.stdout.startswith("FAIL E_REPORT_PLACE") and [path.name for path in Path(place).parent.iterdir()] == [Path(place).name]
    assert seg1a("report", place, "-o", tmp_path / "x.html").stdout.endswith(": PASS\n") and seg1a("verify", place).returncode == 0
    with open(next(Path(place).glob("parameter_scoped/*/s3_eligibility.parquet")), "ab") as file:
        file.write(b"\n")
    assert "E_VERIFY_FAILED" in top(report(Path(place)))


@pytest.fixture(scope="module")
def pages(full_run, withheld_run, tmp_path_factory) -> dict[str, Path]:
    """Reports as files: of a run that passed, of one that was withheld, of a hostile one."""
    folder = tmp_path_factory.mktemp("pages")
    roots = {"pass": full_run, "withheld": withheld_run, "hostile": hostile_run(copied(full_run, folder / "hostile"))}
    for name, root in roots.items():
        (folder / f"{name}.html").write_bytes(report_page(root))
    return {name: folder / f"{name}.html" for name in roots}


@pytest.mark.parametrize("name, width, scheme", [("pass", NARROW, "light"), ("pass", WIDE, "dark"), ("withheld", WIDE, "light"), ("hostile", NARROW, "dark")])
def test_in_a_browser(chromium, pages, name, width, scheme):  # noqa: F811
    with watched(chromium, pages[name], width, color_scheme=scheme) as seen:
        said = []
        seen.page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        seen.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert seen.page.locator("svg.chart").count() >= 2 and seen.page.locator("svg.bar").count() > 20
        for chart in seen.page.locator("svg.chart").all():
            assert chart.bounding_box()["width"] > 300 and chart.get_attribute("aria-label")
        assert seen.page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        assert seen.overflow() <= 0 and seen.page.locator("script, link, iframe, a[href]").count() == 0
        background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(20, 24, 29)" if scheme == "dark" else "rgb(255, 255, 255)")  # so the style is the one that the policy allows
        seen.assert_quiet()
        assert not said


def test_on_paper(chromium, pages):  # noqa: F811
    with watched(chromium, pages["pass"], color_scheme="dark") as seen:
        paper = seen.page.pdf(format="A4")
        assert paper.startswith(b"%PDF-") and 4 <= paper.count(b"/Type /Page\n") <= 12
        seen.page.emulate_media(media="print")
        assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        seen.page.set_viewport_size({"width": 688, "height": 1000})  # A4 less its margins, at 96 dots an inch
        signature = seen.page.locator(".signature").bounding_box()
        assert signature["y"] + signature["height"] < 1000, "the first sheet ends with the signature"
        seen.assert_quiet()
