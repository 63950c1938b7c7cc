"""The reference of the package, made from the text of its modules: signatures and types as they are written, docstrings, fields, constants."""
import ast
import re
from dataclasses import dataclass
from pathlib import Path

from docs_html import Markdown, Page, code_html, escape, relative, table_html

FLOORS = {"core": "Ground floor: core", "inputs": "First floor: inputs", "states": "Second floor: states", "operations": "Roof: operations"}
ORDER = tuple(FLOORS)
CODE = re.compile(r"(?<![`\w])E(?:RR)?_[A-Z0-9_]+(?![`\w:])")


@dataclass(frozen=True)
class Module:
    """A module: its dotted name, its notebook below nbs/, its text, its tree, the names that it offers."""

    name: str
    notebook: str
    text: str
    tree: ast.Module
    public: tuple[str, ...]

    @property
    def page(self) -> str:
        """The place of its reference in the site."""
        return f"reference/{self.name.removeprefix('seg1a.').replace('.', '/')}.html"

    @property
    def summary(self) -> str:
        """What the module says of itself."""
        return ast.get_docstring(self.tree) or ""


def read_modules(package: Path) -> list[Module]:
    """Every exported module of the package, floor by floor, in the order of the notebooks."""
    found = []
    for path in sorted(package.rglob("*.py")):
        text = path.read_text("utf-8")
        mark = re.search(r"File to edit: (?:\.\./)*nbs/(\S+?)\.$", text, re.M)
        if not mark or path.name.startswith("_"):
            continue
        tree = ast.parse(text)
        public = next((ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"), [])
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        found.append(Module(name, mark[1], text, tree, tuple(public)))
    return sorted(found, key=lambda module: (ORDER.index(module.name.split(".")[1]), module.notebook))


class Names:
    """Where a public name of the package is documented."""

    def __init__(self, modules: list[Module], others: dict[str, str]):
        """`others`: names that are none of Python's, by their place."""
        self._others = others
        self._modules = {module.name: module for module in modules}
        self._owners: dict[str, list[Module]] = {}
        for module in modules:
            for name in module.public:
                self._owners.setdefault(name, []).append(module)

    def place(self, text: str, home: str | None = None) -> str | None:
        """The place of `name`, `name(…)`, `module.name` or a module in the site, for prose in the module `home` (without `seg1a.`); None if it is no such name, or of several modules."""
        if text in self._others:
            return self._others[text]
        name = re.sub(r"\(.*\)$", "", text)
        dotted = name if name.startswith("seg1a.") else f"seg1a.{name}"
        if dotted in self._modules:
            return self._modules[dotted].page
        module, _, last = dotted.rpartition(".")
        if module in self._modules and last in self._modules[module].public:
            return f"{self._modules[module].page}#{last}"
        owners = self._owners.get(name, [])
        own = [owner for owner in owners if owner.name == f"seg1a.{home}"]
        return f"{(own or owners)[0].page}#{name}" if own or len(owners) == 1 else None


def _comment_beside(module: Module, node: ast.AST) -> str:
    """The comment at the end of a line."""
    line = module.text.split("\n")[node.end_lineno - 1][node.end_col_offset:]
    return line.partition("#")[2].strip() if "#" in line else ""


class ModulePage:
    """The reference of one module."""

    def __init__(self, module: Module, names: Names):
        self.module, self._names, self._home = module, names, module.name.removeprefix("seg1a.")
        self.page = Page(module.page, module.name, "Reference", group=FLOORS[module.name.split(".")[1]], label=self._home.split(".", 1)[1])
        self._markdown = Markdown(self.page, lambda text: names.place(text, self._home))

    def _linked(self, code: str) -> str:
        """Highlighted code whose public names lead to their place."""
        def link(match: re.Match) -> str:
            place = self._names.place(match[2], self._home)
            return f'{match[1]}<a href="{relative(place, self.page.path)}">{match[2]}</a>{match[3]}' if place and not place.endswith(".html") else match[0]
        return re.sub(r'(<span class="n">)(\w+)(</span>)', link, code_html(code))

    def _signature(self, node: ast.FunctionDef, bound: bool = False) -> str:
        """A definition as it is written, one parameter a line if it is long."""
        arguments = ast.parse(ast.unparse(node)).body[0].args
        if bound and (arguments.posonlyargs or arguments.args):
            (arguments.posonlyargs or arguments.args).pop(0)
        result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        short = f"{node.name}({ast.unparse(arguments)}){result}"
        if len(short) <= 88:
            return short
        pieces = re.split(r", (?=(?:[^\[\](){}'\"]|\[[^\]]*(?:\[[^\]]*\][^\]]*)*\]|\([^)]*\)|\{[^}]*\}|'[^']*'|\"[^\"]*\")*$)", ast.unparse(arguments))
        return f"{node.name}(\n" + "".join(f"    {piece},\n" for piece in pieces) + f"){result}"

    def _documented(self, node: ast.AST) -> str:
        """The docstring, which is plain text with names in backticks; failure codes are led to their table without them, too."""
        return self._markdown.html(CODE.sub(lambda found: f"`{found[0]}`" if self._names.place(found[0], self._home) else found[0], ast.get_docstring(node) or ""))

    def _fields(self, node: ast.ClassDef) -> str:
        """The annotated fields of a class."""
        rows = [[f"<code>{escape(item.target.id)}</code>", f"<code>{self._linked(ast.unparse(item.annotation))}</code>",
                 f"<code>{escape(ast.unparse(item.value))}</code>" if item.value else "", escape(_comment_beside(self.module, item))]
                for item in node.body if isinstance(item, ast.AnnAssign) and not item.target.id.startswith("_")]
        return table_html(["field", "type", "default", ""], rows, "fields") if rows else ""

    def _class(self, node: ast.ClassDef) -> str:
        """A class: bases, docstring, fields, public methods."""
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        parts = [f'<div class="signature"><pre tabindex="0"><code><span class="kind">class</span> {self._linked(node.name + (f"({bases})" if bases else ""))}</code></pre></div>', self._documented(node), self._fields(node)]
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and (item.name == "__init__" or not item.name.startswith("_")):
                marks = {ast.unparse(mark) for mark in item.decorator_list}
                shown = item.name + (f": {ast.unparse(item.returns)}" if item.returns else "") if "property" in marks else self._signature(item, "staticmethod" not in marks)
                kind = next((mark for mark in ("property", "classmethod", "staticmethod") if mark in marks), "")
                anchor = self._markdown.anchor_of(f"{node.name}.{item.name}")
                parts.append(f'<div class="member" id="{anchor}"><div class="signature"><pre tabindex="0"><code>{f"<span class=kind>{kind}</span> " if kind else ""}{self._linked(shown)}</code></pre></div>{self._documented(item)}</div>')
        return "".join(parts)

    def _constant(self, node: ast.Assign | ast.AnnAssign, name: str) -> str:
        """A constant and its value, shortened."""
        value = ast.get_source_segment(self.module.text, node) or name
        lines = value.split("\n")
        shown = "\n".join(line[:160] for line in lines[:12]) + ("\n…" if len(lines) > 12 else "")
        return f'<div class="signature"><pre tabindex="0"><code>{self._linked(shown)}</code></pre></div>'

    def _entry(self, name: str) -> str:
        """What is said of one public name."""
        for node in self.module.tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                marks = "".join(f'<span class="mark">@{escape(ast.unparse(mark))}</span>' for mark in node.decorator_list)
                return f'<div class="signature"><pre tabindex="0"><code><span class="kind">def</span> {self._linked(self._signature(node))}</code></pre>{marks}</div>' + self._documented(node)
            if isinstance(node, ast.ClassDef) and node.name == name:
                return self._class(node)
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(part.id == name for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)):
                    return self._constant(node, name)
        return "<p>A name that another module defines.</p>"

    def _groups(self) -> list[list[str]]:
        """The public names; those that one statement defines together."""
        groups: dict[int, list[str]] = {}
        for name in self.module.public:
            line = next((node.lineno for node in self.module.tree.body if isinstance(node, ast.Assign)
                         and any(part.id == name for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name))), -1)
            groups.setdefault(line if line > 0 else -len(groups) - 2, []).append(name)
        return list(groups.values())

    def build(self, notebook_page: str) -> Page:
        """The page."""
        module = self.module
        self.page.subtitle = escape(module.summary.split("\n")[0])
        self.page.indexed.insert(0, ("", module.name, module.summary))
        parts = [f'<p class="origin">Told in the notebook <a href="{relative(notebook_page, self.page.path)}">{escape(module.notebook)}</a>; <code>from {module.name} import …</code></p>']
        for group in self._groups():
            anchors = [self._markdown.anchor_of(name) for name in group]
            self.page.headings.append((2, anchors[0], ", ".join(group)))
            self.page.indexed += [(anchor, name, "") for anchor, name in zip(anchors, group)]
            more = "".join(f'<span class="target" id="{anchor}"></span>' for anchor in anchors[1:])
            parts.append(f'<section class="entry">{more}<h2 id="{anchors[0]}"><code>{", ".join(group)}</code><a class="anchor" href="#{anchors[0]}" aria-label="link to {group[0]}">#</a></h2>\n{self._entry(group[0])}</section>\n')
        self.page.body = "".join(parts)
        return self.page


def overview(modules: list[Module], names: Names) -> Page:
    """The first page of the reference: every module with what it says of itself."""
    page = Page("reference/index.html", "Reference", "Reference", label="Overview")
    markdown = Markdown(page, names.place)
    page.subtitle = "Every module, what it offers, with the types that its text has"
    parts = []
    for floor, title in FLOORS.items():
        rows = [[f'<a href="{relative(module.page, page.path)}"><code>{module.name.split(".", 2)[2]}</code></a>', markdown.html(module.summary.split("\n")[0]).removeprefix("<p>").removesuffix("</p>\n"), str(len(module.public))]
                for module in modules if module.name.split(".")[1] == floor]
        parts.append(markdown.heading(2, title) + table_html([f"seg1a.{floor}", "what it is", "names"], rows, "modules"))
    page.body = "<p>Imports only go down the floors. A name links to its types; the notebook of a module tells why it is as it is.</p>" + "".join(parts)
    return page
