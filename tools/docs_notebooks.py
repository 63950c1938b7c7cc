"""A notebook, executed or not, as a page: prose, code with links to its module, outputs with plots as files."""
import ast
import base64
import hashlib
import html
import re
from pathlib import Path

from docs_execute import source
from docs_html import Markdown, Page, code_block, page_path, relative

DIRECTIVE = re.compile(r"^#\| *(\S+) *(.*)$", re.M)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Figures:
    """Pictures of the site, each once, named by what they are."""

    def __init__(self):
        """Empty; `files` maps a path in the site to its bytes."""
        self.files: dict[str, bytes] = {}

    def place(self, data: bytes, suffix: str) -> str:
        """The path of a picture in the site."""
        name = f"figures/{hashlib.sha256(data).hexdigest()[:20]}.{suffix}"
        self.files[name] = data
        return name


def picture(data: dict, figures: Figures, page: Page, alt: str) -> str | None:
    """An output that is a picture, or None."""
    if "image/svg+xml" in data:
        text = "".join(data["image/svg+xml"])
        text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[max(text.find("<svg"), 0):], flags=re.DOTALL)
        place = figures.place(text.encode(), "svg")
    elif "image/png" in data:
        place = figures.place(base64.b64decode("".join(data["image/png"])), "png")
    else:
        return None
    return f'<figure><img src="{relative(place, page.path)}" alt="{html.escape(alt)}" loading="lazy"></figure>\n'


def output_html(output: dict, figures: Figures, page: Page, markdown: Markdown, alt: str) -> str:
    """One output of a cell."""
    kind = output["output_type"]
    if kind == "stream":
        text = ANSI.sub("", "".join(output["text"]))
        return code_block(text, "", "output" if output["name"] == "stdout" else "output warning") if text.strip() else ""
    if kind == "error":
        return code_block(f"{output['ename']}: {ANSI.sub('', output['evalue'])}", "", "output error")
    data = output["data"]
    if shown := picture(data, figures, page, alt):
        return shown
    if "text/html" in data:
        table = re.sub(r'<style.*?</style>|<script.*?</script>| border="1"', "", "".join(data["text/html"]), flags=re.DOTALL)
        return f'<div class="scroll output" tabindex="0">{table}</div>\n'
    if "text/markdown" in data:
        return f'<div class="output markdown">{markdown.html("".join(data["text/markdown"]))}</div>\n'
    text = ANSI.sub("", "".join(data.get("text/plain", [])))
    return code_block(text, "", "output") if text.strip() else ""


def split_title(cells: list[dict]) -> tuple[str, str, list[dict]]:
    """Title and subtitle of the first cell of prose (`# Title`, `> subtitle`), and the cells without them."""
    for place, cell in enumerate(cells):
        if cell["cell_type"] == "markdown" and (found := re.match(r"# (.+)\n*(?:> (.+)\n*)?", source(cell))):
            return found[1].strip(), (found[2] or "").strip(), [*cells[:place], cell | {"source": source(cell)[found.end():]}, *cells[place + 1:]]
    return "", "", cells


def notebook_page(name: str, notebook: dict, section: str, group: str, figures: Figures, names, links, module_note) -> Page:
    """The page of the notebook `name` (its path below nbs/). `module_note(module, page)` is the line that leads to the module's reference."""
    title, subtitle, cells = split_title(notebook["cells"])
    page = Page(page_path(name), title or name, section, group=group)
    module = next((found[1] for cell in cells if (found := re.search(r"^#\| *default_exp +(\S+)", source(cell), re.M))), None)
    markdown = Markdown(page, lambda text: names(text, module), links(page))
    page.subtitle = markdown.html(subtitle).replace("<p>", "").replace("</p>", "") if subtitle else ""
    page.indexed.insert(0, ("", "", subtitle))
    parts = [module_note(module, page)] if module else []
    for cell in cells:
        text = source(cell)
        if cell["cell_type"] == "markdown":
            parts.append(markdown.html(text))
        elif cell["cell_type"] == "code":
            parts.append(_code_cell(text, cell, page, figures, markdown))
    page.body = "".join(parts)
    return page


def only_imports(text: str) -> bool:
    """True for a cell that imports and does nothing else."""
    try:
        return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(text).body)
    except SyntaxError:
        return False


def _code_cell(text: str, cell: dict, page: Page, figures: Figures, markdown: Markdown) -> str:
    """A code cell and its outputs; a definition that is exported gets an anchor of its name."""
    directives = {found[1] for found in DIRECTIVE.finditer(text)}
    shown = DIRECTIVE.sub("", text).strip("\n")
    parts = []
    if shown and "hide" not in directives:
        exported = bool(directives & {"export", "exporti", "exports"})
        found = re.findall(r"^(?:def|class|async def) (\w+)|^([A-Z][A-Z0-9_]*)\b.*?=", shown, re.M) if exported else []
        anchors = "".join(f'<span class="target" id="{markdown.anchor_of(name)}"></span>' for pair in found for name in pair if name)
        block = code_block(shown, "python", "code exported" if exported else "code")
        parts.append(f"<details class=imports><summary>imports</summary>{block}</details>\n" if only_imports(shown) else anchors + block)
        markdown.words(" ".join(re.findall(r"[A-Za-z_]\w{3,}", " ".join(line for line in shown.split("\n") if not line.startswith(("import", "from"))))) if not exported else " ".join(name for pair in found for name in pair))
    alt = f"plot, in the section “{page.headings[-1][2]}”" if page.headings else "plot"
    parts += [output_html(output, figures, page, markdown, alt) for output in cell.get("outputs", [])]
    return "".join(parts)


def read_pictures(folder: Path, root: Path) -> dict[str, bytes]:
    """Pictures that lie beside the notebooks, by their path in the site."""
    kinds = {".png", ".svg", ".jpg"}
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix in kinds and ".ipynb_checkpoints" not in path.parts}
