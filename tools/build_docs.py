#!/usr/bin/env python3
"""Build the documentation site: guides, notebooks with their outputs, reference, contracts, a sample run. Needs no network, and the site needs none.

  build_docs.py                          into _docs/; notebooks whose sources changed are run, the others come from _docs_cache/
  build_docs.py --no-execute             outputs only where the cache has them
  build_docs.py --execute tour 'core/1*' run only these (path below nbs/, without number and suffix; wildcards)
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

from docs_contracts import DATASET_PAGES, ContractPages, alert_page, code_page, places, policy_page  # noqa: E402
from docs_execute import Sources, executed_notebooks  # noqa: E402
from docs_html import Frame, Markdown, Page, page_path, relative, write_site  # noqa: E402
from docs_notebooks import Figures, notebook_page, read_pictures, split_title  # noqa: E402
from docs_reference import FLOORS, ModulePage, Names, overview, read_modules  # noqa: E402
from docs_run import run_pages, sample_run  # noqa: E402

SECTIONS = {"Start": "index.html", "Guides": "guides/operator.html", "Notebooks": "core/errors.html", "A run": "run/index.html", "Reference": "reference/index.html", "Contracts": "contracts/index.html"}
GUIDES = ("operator", "reviewer", "modeller", "policy", "cluster")
FOOTER = "seg1a, Apache-2.0. Made by <code>make docs</code> from the notebooks, guides, contracts and modules of this version."


@dataclass(frozen=True)
class Settings:
    """What is to be built, and how."""

    target: Path
    cache: Path
    execute: Callable[[str], bool]  # which notebooks may be run, by the name of their page without suffix
    run: bool = True  # whether a sample run may be made
    workers: int = 2
    say: Callable[[str], None] = print


def site_links(page: Page, source: str) -> Callable[[str], str]:
    """Links as they stand in a file below nbs/ to links of the site: notebooks and guides become pages, all else stays."""
    def link(target: str) -> str:
        place, mark, anchor = target.partition("#")
        if place.endswith((".ipynb", ".md")):
            place = relative(page_path(os.path.normpath(os.path.join(os.path.dirname(source), place))), page.path)
        return place + mark + anchor
    return link


def guide_page(path: Path, section: str, group: str, names: Names, source: str = "") -> Page:
    """A guide, or the front page, from its Markdown; `source` is its place below nbs/, when it lies elsewhere."""
    source = source or path.relative_to(ROOT / "nbs").as_posix()
    title, subtitle, (cell,) = split_title([{"cell_type": "markdown", "source": path.read_text("utf-8")}])
    page = Page(page_path(source), title, section, group=group)
    markdown = Markdown(page, names.place, site_links(page, source))
    page.subtitle = markdown.html(subtitle).replace("<p>", "").replace("</p>", "").strip() if subtitle else ""
    page.body = inline_drawings(markdown.html(cell["source"]), path.parent)
    return page


def inline_drawings(body: str, folder: Path) -> str:
    """SVG drawings of our own become part of the page, so that they take its colours."""
    def drawing(match: re.Match) -> str:
        path = folder / match[1]
        if not path.is_file():
            return match[0]
        text = re.sub(r"<\?xml.*?\?>", "", path.read_text("utf-8")).strip()
        return f'<figure class="drawing" role="img" aria-label="{match[2]}" tabindex="0">{text}</figure>'
    return re.sub(r'<img class="picture" src="([^":]+\.svg)" alt="([^"]*)">', drawing, body)


def notebook_pages(settings: Settings, modules: list, names: Names, figures: Figures) -> list[Page]:
    """The tour, the tutorial, and the notebook of every module."""
    nbs = ROOT / "nbs"
    paths = [path for path in sorted(nbs.rglob("*.ipynb")) if path.parent.name != "runs" and ".ipynb_checkpoints" not in path.parts]
    wanted = [path for path in paths if settings.execute(page_path(path.relative_to(nbs).as_posix()).removesuffix(".html"))]
    done = executed_notebooks(ROOT, wanted, settings.cache, settings.workers, settings.say)
    known = Sources(ROOT)
    pages = {module.notebook: module.page for module in modules}

    def note(module: str, page: Page) -> str:
        name = page_source[page.path]
        return f'<p class="origin">Module <a href="{relative(pages[name], page.path)}"><code>seg1a.{module}</code></a>, made from <code>nbs/{name}</code></p>' if name in pages else ""

    found, page_source = [], {}
    for path in paths:
        name = path.relative_to(nbs).as_posix()
        page_source[page_path(name)] = name
        remembered = settings.cache / path.relative_to(nbs).with_suffix("") / f"{known.digest(path)}.json"
        notebook = done.get(path) or json.loads((remembered if remembered.exists() else path).read_bytes())
        group, section = (FLOORS.get(name.split("/")[0], "Others"), "Notebooks") if "/" in name else ("", "Start")
        found.append(notebook_page(name, notebook, section, group, figures, names.place, lambda page, name=name: site_links(page, name), note))
    order = [*FLOORS.values(), "Others", ""]
    return sorted(found, key=lambda page: order.index(page.group))


def contract_pages(modules: list, names: Names) -> list[Page]:
    """What is made from the contracts of the package."""
    from seg1a.core.contracts import contracts
    from seg1a.core.errors import FAILURE_CLASSES, Seg1aError, code_table
    from seg1a.operations.alert_rules import ALERT_RULES, LIMITS

    made = ContractPages(contracts(), names.place)

    def artefact(name: str):
        try:
            return contracts().artefact(name)
        except Seg1aError:
            return None

    return [made.overview(), *(made.dataset_page(*one) for one in DATASET_PAGES), made.document_page(), made.artefact_page(), code_page(code_table(), FAILURE_CLASSES, modules),
            alert_page(ALERT_RULES, LIMITS), policy_page(ROOT / "policies", artefact, lambda page: site_links(page, "policies/README.md"))]


def build(settings: Settings) -> list[Page]:
    """Make the whole site beside `target`, then put it in its place; returns the pages."""
    from seg1a.core.contracts import contracts
    from seg1a.core.errors import code_table

    modules = read_modules(ROOT / "seg1a")
    names, figures = Names(modules, places(contracts(), code_table())), Figures()
    notebooks = notebook_pages(settings, modules, names, figures)
    guides = [guide_page(ROOT / "nbs" / "guides" / f"{name}.md", "Guides", "", names) for name in GUIDES]
    guides.append(guide_page(ROOT / "benchmarks" / "RESULTS.md", "Guides", "", names, "guides/measured.md"))
    front = guide_page(ROOT / "nbs" / "index.md", "Start", "", names)
    front.label = "Home"
    told = {module.notebook: page_path(module.notebook) for module in modules}
    run = sample_run(ROOT, settings.cache, settings.say) if settings.run else None
    pages = [front, *(page for page in notebooks if page.section == "Start"), *guides, *(page for page in notebooks if page.section != "Start"),
             *run_pages(ROOT, run, figures, names), overview(modules, names), *(ModulePage(module, names).build(told[module.notebook]) for module in modules), *contract_pages(modules, names)]
    settings.target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.target.parent, prefix=".docs-") as folder:
        site = Path(folder) / "site"
        write_site(site, Frame(pages, SECTIONS, FOOTER))
        for name, data in (read_pictures(ROOT / "nbs", ROOT / "nbs") | figures.files).items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_bytes(data)
        shutil.rmtree(settings.target, ignore_errors=True)
        site.rename(settings.target)
    return pages


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "_docs")
    parser.add_argument("--cache", type=Path, default=ROOT / "_docs_cache")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--no-execute", action="store_true", help="run nothing; take outputs from the cache where it has them")
    what.add_argument("--execute", nargs="+", metavar="NAME", help="run only these notebooks, and make no sample run")
    arguments = parser.parse_args()
    patterns = [] if arguments.no_execute else arguments.execute or ["*"]
    settings = Settings(arguments.output.absolute(), arguments.cache.absolute(), lambda name: any(fnmatchcase(name, pattern) for pattern in patterns), run=patterns == ["*"],
                        workers=arguments.workers, say=lambda line: print(f"docs: {line}", file=sys.stderr, flush=True))
    pages = build(settings)
    size = sum(path.stat().st_size for path in settings.target.rglob("*") if path.is_file())
    print(f"BUILT {arguments.output / 'index.html'}: {len(pages)} pages, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
