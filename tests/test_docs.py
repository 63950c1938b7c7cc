"""The documentation site: whole, offline, readable on a telephone; and nothing in it left unexplained."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest
from page_support import NARROW, WIDE, watched

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "tools"))

# The cheap site runs these: a page with plots, a page of prose and streams.
EXECUTED = ("core/figures", "core/errors")
SAMPLE = ("index.html", "tour.html", "guides/operator.html", "guides/policy.html", "core/figures.html", "core/lineage.html", "core/reference.html", "run/index.html", "run/s2.html", "reference/index.html",
          "reference/core/errors.html", "reference/operations/cli.html", "contracts/index.html", "contracts/logs.html", "contracts/documents.html", "contracts/codes.html", "contracts/alerts.html", "contracts/policies.html")


def built(folder: Path, *arguments: str) -> Path:
    """The site, built by the command."""
    command = [sys.executable, CHECKOUT / "tools" / "build_docs.py", "--output", folder / "site", "--cache", folder / "cache", "--workers", "2", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])})
    assert done.returncode == 0 and done.stdout.startswith("BUILT "), done.stderr[-3000:]
    return folder / "site"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A site whose notebooks are mostly as they were written."""
    return built(tmp_path_factory.mktemp("docs"), "--execute", *EXECUTED)


@dataclass(frozen=True)
class Links:
    """Anchors of a page, and what it refers to."""

    ids: list[str]
    targets: list[str]


def read_links(site: Path) -> dict[str, Links]:
    """The links of every page by its path; code is escaped, so what looks like a tag is one."""
    found = {}
    for path in sorted(site.rglob("*.html")):
        pairs = [pair for tag in re.findall(r"<[a-z][^>]*>", path.read_text("utf-8")) for pair in re.findall(r"""\s(id|href|src)=["']?([^"'\s>]*)""", tag)]
        found[path.relative_to(site).as_posix()] = Links([value for name, value in pairs if name == "id"], [value for name, value in pairs if name != "id"])
    return found


def broken(site: Path) -> list[str]:
    """Links that lead nowhere, anchors that stand twice, files that are fetched from a network."""
    pages, problems = read_links(site), []
    for name, page in pages.items():
        problems += [f"{name}: {anchor} stands twice" for anchor in sorted(one for one, count in Counter(page.ids).items() if count > 1)]
        for target in page.targets:
            place, _, anchor = target.partition("#")
            if re.match(r"data:|https?:", target):
                continue
            other = os.path.normpath(os.path.join(os.path.dirname(name), unquote(place))) if place else name
            if not (site / other).is_file() or anchor and unquote(anchor) not in pages[other].ids:
                problems.append(f"{name}: {target}")
    return problems


def test_every_link_and_anchor_resolves(site):
    problems = broken(site)
    assert not problems, problems[:20]


def test_a_broken_link_would_be_noticed(tmp_path):
    (tmp_path / "a.html").write_text("<p id=x id=x><a href='b.html'>b</a><a href='#y'>y</a><i id=x></i>")
    assert broken(tmp_path) == ["a.html: x stands twice", "a.html: b.html", "a.html: #y"]


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_pages_are_quiet_and_fit_the_window(chromium, site, width):
    with watched(chromium, site / "tour.html", width, color_scheme="dark" if width == NARROW else "light") as seen:
        for name in SAMPLE:
            seen.page.goto((site / name).as_uri())
            seen.assert_quiet()
            assert seen.overflow() <= 0, f"{name} is {seen.overflow()} pixels wider than {width}"
            assert seen.page.evaluate("document.querySelector('h1').getBoundingClientRect().height") > 10


def test_mathematics_and_plots_are_there(chromium, site):
    with watched(chromium, site / "core" / "reference.html") as seen:
        boxes = seen.page.eval_on_selector_all("math", "all => all.map(one => one.getBoundingClientRect().width * one.getBoundingClientRect().height)")
        assert len(boxes) > 30 and min(boxes) > 0
        assert "$" not in seen.page.evaluate("[...document.querySelectorAll('main p')].map(one => one.textContent).join(' ')")
    with watched(chromium, site / "core" / "figures.html") as seen:
        seen.page.wait_for_function("[...document.querySelectorAll('figure img')].every(one => { one.loading = 'eager'; return one.complete; })")
        assert seen.page.eval_on_selector_all("figure img", "all => all.map(one => one.naturalWidth > 100)") == [True] * 3
        seen.assert_quiet()


def test_search_finds_what_is_there_and_says_so_of_what_is_not(chromium, site):
    with watched(chromium, site / "guides" / "operator.html") as seen:
        seen.page.keyboard.press("/")
        seen.page.keyboard.type("corridor")
        seen.page.wait_for_selector(".found a")
        found = seen.page.eval_on_selector_all(".found a", "all => all.map(one => [one.getAttribute('href'), one.textContent])")
        assert any("states/s2_corridors.html" in place for place, _ in found) and all("corridor" in text.lower() for _, text in found)
        seen.page.fill(".search input", "ERR_S2_ATTEMPT_LIMIT")
        seen.page.wait_for_function("document.querySelector('.found a')?.href.includes('ERR_S2_ATTEMPT_LIMIT')")
        seen.page.keyboard.press("ArrowDown")
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_url("**/contracts/codes.html#ERR_S2_ATTEMPT_LIMIT")
        seen.page.fill(".search input", "zyxwvut")
        seen.page.wait_for_function("document.querySelector('.found p')?.textContent.includes('Nothing')")
        seen.assert_quiet()


def test_what_was_found_is_text_and_no_markup(chromium, site):
    with watched(chromium, site / "index.html") as seen:
        seen.page.fill(".search input", "<img src=x onerror=console.error(1)>")
        seen.page.wait_for_function("!document.querySelector('.found').hidden")
        assert seen.page.query_selector(".found img") is None
        seen.assert_quiet()


def test_light_and_dark_by_the_system_and_by_choice(chromium, site):
    shade = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    for scheme, is_dark in (("light", False), ("dark", True)):
        with watched(chromium, site / "index.html", color_scheme=scheme) as seen:
            assert (seen.page.evaluate(shade) < 100) is is_dark
            seen.page.click(".theme")
            assert (seen.page.evaluate(shade) < 100) is not is_dark
            seen.page.goto((site / "tour.html").as_uri())
            assert (seen.page.evaluate(shade) < 100) is not is_dark, "the choice is kept"


def test_on_a_telephone_the_list_opens_and_the_filter_filters(chromium, site):
    with watched(chromium, site / "contracts" / "codes.html", NARROW, 800) as seen:
        assert not seen.page.is_visible(".side")
        seen.page.click(".menu")
        assert seen.page.is_visible(".side a[aria-current]")
        seen.page.click(".menu")
        seen.page.fill("[data-filter]", "gdp bucket")
        shown = seen.page.eval_on_selector_all("table.codes tbody tr", "all => all.filter(one => one.offsetHeight).map(one => one.textContent.toLowerCase())")
        assert 0 < len(shown) < 40 and all("gdp" in text and "bucket" in text for text in shown)


def test_nothing_in_the_contracts_is_unexplained_and_no_explanation_is_idle():
    from docs_contracts import gaps, meanings

    from seg1a.core.contracts import contracts

    unexplained, idle = gaps(contracts(), meanings())
    assert not unexplained and not idle, (sorted(unexplained), sorted(idle))
    told = meanings()
    told["columns"] = {name: text for name, text in told["columns"].items() if name != "n_outlets"} | {"nothing": "x"}
    assert gaps(contracts(), told) == ({("columns", "n_outlets")}, {("columns", "nothing")})


def test_every_code_dataset_and_alert_has_its_place(site):
    from seg1a.core.contracts import contracts
    from seg1a.core.errors import code_table
    from seg1a.operations.alert_rules import ALERT_RULES

    pages = read_links(site)
    assert set(code_table()) <= set(pages["contracts/codes.html"].ids)
    assert set(contracts().datasets()) <= {one for name in ("inputs", "tables", "logs", "evidence") for one in pages[f"contracts/{name}.html"].ids}
    text = (site / "contracts" / "alerts.html").read_text("utf-8").replace("<wbr>", "")
    assert all(rule.id in text and rule.metric in text for rule in ALERT_RULES)


def test_every_public_name_has_its_entry_with_its_types(site):
    from docs_reference import read_modules

    modules = read_modules(CHECKOUT / "seg1a")
    assert len(modules) > 80
    pages = read_links(site)
    for module in modules:
        assert set(module.public) <= set(pages[module.page].ids), module.name
    text = re.sub(r"<[^>]+>", "", (site / "reference" / "operations" / "promote.html").read_text("utf-8"))
    assert "promote(" in text and "progress: Callable" in text


def test_outputs_are_taken_again_when_anything_that_they_use_changes(tmp_path):
    from docs_execute import Sources

    for folder in ("seg1a/core/contracts", "policies", "reference", "seg1a/runs", "requirements", "nbs"):
        (tmp_path / folder).mkdir(parents=True)
    files = {"requirements/lock.txt": "", "seg1a/__init__.py": "", "seg1a/core/__init__.py": "", "seg1a/core/a.py": "from . import b\n", "seg1a/core/b.py": "x = 1\n", "seg1a/core/c.py": "", "policies/p.yaml": ""}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    notebook = tmp_path / "nbs" / "n.ipynb"
    notebook.write_text(json.dumps({"cells": [{"cell_type": "code", "source": "from seg1a.core import a"}]}))
    before = Sources(tmp_path).digest(notebook)
    for name, moves in (("seg1a/core/b.py", True), ("seg1a/core/c.py", False), ("policies/p.yaml", True), ("nbs/n.ipynb", True)):
        path = tmp_path / name
        kept = path.read_text()
        path.write_text(kept + "\n")
        assert (Sources(tmp_path).digest(notebook) != before) is moves, name
        path.write_text(kept)


def test_a_cell_that_raises_ends_the_build(tmp_path):
    script = f"""
import sys
sys.path.insert(0, {str(CHECKOUT / 'tools')!r})
from pathlib import Path
from docs_execute import NotebookFailed, PREPARED, executed_notebooks
PREPARED.clear()
if __name__ == "__main__":
    root = Path({str(tmp_path)!r})
    try:
        executed_notebooks(root, [root / "nbs" / "n.ipynb"], root / "cache", 1, print)
    except NotebookFailed as error:
        print("refused", "ZeroDivisionError" in str(error))
"""
    (tmp_path / "nbs").mkdir()
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "lock.txt").touch()
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": "1 / 0", "outputs": [], "execution_count": None}
    (tmp_path / "nbs" / "n.ipynb").write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    (tmp_path / "run.py").write_text(script)
    done = subprocess.run([sys.executable, tmp_path / "run.py"], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "refused True", done.stderr[-2000:]
    assert not list((tmp_path / "cache").rglob("*.json")), "nothing of it is remembered"


@pytest.mark.slow
def test_the_whole_site(chromium, tmp_path):
    """Every notebook is run, a sample run made, every page opened at both widths."""
    site = built(tmp_path)
    problems = broken(site)
    assert not problems, problems[:20]
    assert len(list((site / "figures").glob("*.svg"))) > 50
    assert "PASS runs/latest" in (site / "run" / "index.html").read_text("utf-8")
    for path in sorted(site.rglob("*.html")):
        for width in (NARROW, WIDE):
            with watched(chromium, path, width) as seen:
                seen.assert_quiet()
                assert seen.overflow() <= 0, (path, width)
