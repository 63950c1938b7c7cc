"""A page of the site: Markdown, mathematics and code to HTML, and the frame around it. Nothing refers to a network."""
import html
import json
import posixpath
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import BashLexer, JsonLexer, PythonLexer, YamlLexer

STATIC = Path(__file__).parent / "docs_static"
LEXERS = {"python": PythonLexer, "py": PythonLexer, "sh": BashLexer, "bash": BashLexer, "json": JsonLexer, "yaml": YamlLexer}
# before the first paint; without storage (some browsers refuse it to files) the choice of the system holds
THEME = ('{let chosen=null;try{chosen=localStorage.getItem("theme")}catch{}'
         'document.documentElement.dataset.theme=chosen||(matchMedia("(prefers-color-scheme: dark)").matches?"dark":"light")}')
FORMATTER = HtmlFormatter(nowrap=True)
escape = html.escape


@dataclass
class Page:
    """One page. `path` is its place in the site, `section` the entry of the head line that it belongs to, `group` its heading in the list at the side."""

    path: str
    title: str
    section: str
    body: str = ""
    subtitle: str = ""
    group: str = ""
    wide: bool = False
    headings: list[tuple[int, str, str]] = field(default_factory=list)  # level, anchor, text
    indexed: list[tuple[str, str, str]] = field(default_factory=list)  # anchor, heading, words
    label: str = ""  # what the list at the side calls it; the title if empty


def slug(text: str) -> str:
    """The anchor of a heading."""
    plain = re.sub(r"[^\w\s-]", "", re.sub(r"<[^>]+>|[`$\\{}]", "", text)).strip().lower()
    return re.sub(r"[\s_]+", "-", plain) or "section"


def page_path(source: str) -> str:
    """Where the page of a notebook or guide is, from its path below nbs/: without number, as `.html`."""
    folder, name = posixpath.split(source)
    stem = re.sub(r"^[0-9]+[a-z]?_", "", name.rsplit(".", 1)[0])
    return posixpath.join(folder, f"{stem}.html")


def relative(target: str, page: str) -> str:
    """A link from one page of the site to another place in it; an anchor may follow `target`."""
    place, mark, anchor = target.partition("#")
    return (posixpath.relpath(place, posixpath.dirname(page) or ".") if place != page or not mark else "") + mark + anchor


def code_html(text: str, language: str = "python") -> str:
    """Highlighted code without a frame; classes, no colours."""
    lexer = LEXERS.get(language)
    return highlight(text, lexer(stripnl=False, ensurenl=False), FORMATTER) if lexer else escape(text)


def code_block(text: str, language: str = "python", kind: str = "code") -> str:
    """A block of code, which scrolls by itself and can be copied."""
    return f'<div class="block {kind}"><pre tabindex="0"><code>{code_html(text.rstrip(chr(10)), language)}</code></pre></div>\n'


def math_html(text: str, options: dict) -> str:
    """A formula as MathML."""
    shown = convert(text.strip(), display="block" if options.get("display_mode") else "inline")
    shown = re.sub(r'(<mo stretchy="false">(?:&#x00028;|&#x0005B;|\(|\[)</mo>)<mo>', r'\1<mo form="prefix">', shown)  # a sign, no subtraction
    shown = re.sub(r"(<mi>(?:ln|log|exp|cos|sin|artanh|arctan|max|min)</mi>)(?=<m[in])", r'\1<mspace width="0.17em"/>', shown)
    return f'<span class="long">{shown}</span>' if len(text) > 60 and not options.get("display_mode") else shown  # it scrolls by itself on a narrow page


def table_html(columns: list[str], rows: list[list[str]], kind: str = "") -> str:
    """A table of cells that are HTML already; it scrolls by itself."""
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    kind += " stacked" if kind else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'


class Markdown:
    """Markdown of one page to HTML; collects its headings and the words to search for."""

    def __init__(self, page: Page, names=None, links=None):
        """`names(text)` gives the place of a name in backticks, or None; `links(target)` the place of a relative link."""
        self.page, self._names, self._links = page, names or (lambda text: None), links or (lambda target: target)
        self._parser = MarkdownIt("commonmark", {"html": False}).enable("table").use(dollarmath_plugin, renderer=math_html, double_inline=True, allow_digits=False)
        self._parser.renderer.rules |= {"fence": self._fence, "code_block": self._fence, "code_inline": self._code, "heading_open": self._heading, "link_open": self._link,
                                        "table_open": lambda *_: '<div class="scroll" tabindex="0"><table>', "table_close": lambda *_: "</table></div>", "image": self._image}
        self._used: set[str] = set()

    def anchor(self, text: str) -> str:
        """An anchor that this page does not have yet."""
        name = base = slug(text)
        number = 1
        while name in self._used:
            number += 1
            name = f"{base}-{number}"
        self._used.add(name)
        return name

    def anchor_of(self, name: str) -> str:
        """The anchor of a name of Python, unchanged the first time."""
        found = name if name not in self._used else self.anchor(name)
        self._used.add(found)
        return found

    def heading(self, level: int, text: str, anchor: str | None = None) -> str:
        """A heading in plain text, noted for the contents of the page; its anchor is made of the text unless it is given."""
        anchor = self.anchor(text) if anchor is None else self.anchor_of(anchor)
        self.page.headings.append((level, anchor, text))
        self.page.indexed.append((anchor, text, ""))
        return f'<h{level} id="{anchor}">{escape(text)}<a class="anchor" href="#{anchor}" aria-label="link to this section">#</a></h{level}>\n'

    def words(self, text: str) -> None:
        """Text that the search shall find under the last heading."""
        plain = " ".join(re.sub(r"[`*|#>\[\]$]+|\\[a-zA-Z]+", " ", text).split())
        anchor, title, before = self.page.indexed[-1] if self.page.indexed else ("", "", "")
        if self.page.indexed:
            self.page.indexed.pop()
        self.page.indexed.append((anchor, title, f"{before} {plain}".strip()))

    def html(self, text: str) -> str:
        """The HTML of a piece of the page; comments are left out."""
        text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
        tokens = self._parser.parse(text)
        rendered = []
        for before, token in zip([None, *tokens], tokens):
            if token.type == "inline" and not (before and before.type == "heading_open"):
                rendered.append(token.content)
            elif token.type == "heading_open":
                self.words(" ".join(rendered))
                rendered = []
                self._noted(tokens[tokens.index(token) + 1].content, int(token.tag[1]), token)
            elif token.type == "fence" and token.info.strip() in ("", "text", "console", "sh"):
                rendered.append(token.content)
        self.words(" ".join(rendered))
        return self._parser.renderer.render(tokens, self._parser.options, {})

    def _noted(self, content: str, level: int, token) -> None:
        """Give a heading its anchor."""
        plain = re.sub(r"[`*$\\]|\]\([^)]*\)|\[", "", content)
        token.attrSet("id", self.anchor(content))
        self.page.headings.append((level, token.attrs["id"], plain))
        self.page.indexed.append((token.attrs["id"], plain, ""))

    def _heading(self, tokens, index, *_) -> str:
        return f'<{tokens[index].tag} id="{tokens[index].attrs["id"]}">'

    def _fence(self, tokens, index, *_) -> str:
        language = tokens[index].info.strip().split(" ")[0]
        if language == "console":
            return f'<div class="block code"><pre tabindex="0"><code>{console_html(tokens[index].content)}</code></pre></div>\n'
        return code_block(tokens[index].content, language, "code" if language else "drawing")

    def _code(self, tokens, index, *_) -> str:
        text = tokens[index].content
        place = self._names(text)
        shown = f"<code>{escape(text)}</code>"
        return f'<a class="name" href="{escape(relative(place, self.page.path))}">{shown}</a>' if place else shown

    def _link(self, tokens, index, options, env) -> str:
        target = str(tokens[index].attrs["href"])
        if not re.match(r"[a-z]+:|#", target):
            tokens[index].attrSet("href", self._links(target))
        return self._parser.renderer.renderToken(tokens, index, options, env)

    def _image(self, tokens, index, *_) -> str:
        target, alt = str(tokens[index].attrs["src"]), tokens[index].content
        return f'<img class="picture" src="{escape(self._links(target))}" alt="{escape(alt)}">'


def console_html(text: str) -> str:
    """A session in a shell: prompts and commands stand out, what was printed is quiet."""
    shown, typing = [], False
    for line in text.rstrip("\n").split("\n"):
        begins = line.startswith("$ ")
        if begins or typing:
            prompt = '<span class="prompt">$ </span>' if begins else ""
            shown.append(f'{prompt}<span class="typed">{code_html(line[2:] if begins else line, "sh").rstrip(chr(10))}</span>')
            typing = line.endswith("\\")
        else:
            shown.append(f'<span class="printed">{escape(line)}</span>')
    return "\n".join(shown)


class Frame:
    """What stands around every page: head line, list of the section, contents, neighbours."""

    def __init__(self, pages: list[Page], sections: dict[str, str], footer: str):
        """`sections`: name -> path of its first page, in the order of the head line."""
        self.sections, self.footer, self.pages = sections, footer, pages

    def _head(self, page: Page) -> str:
        links = "".join(f'<a href="{relative(path, page.path)}"{" aria-current=true" if name == page.section else ""}>{escape(name)}</a>' for name, path in self.sections.items())
        return f"""<header class="top"><button class="menu" type="button" aria-label="contents" aria-expanded="false" aria-controls="the-list">☰</button>
<a class="brand" href="{relative('index.html', page.path)}">seg1a</a><nav aria-label="sections">{links}</nav>
<div class="search" role="search"><input type="search" placeholder="Search" aria-label="search the documentation" autocomplete="off" spellcheck="false"><kbd>/</kbd>
<div class="found" hidden></div></div><button class="theme" type="button" aria-label="light or dark">◐</button></header>"""

    def _side(self, page: Page) -> str:
        groups: dict[str, list[Page]] = {}
        for other in self.pages:
            if other.section == page.section:
                groups.setdefault(other.group, []).append(other)
        parts = [f'<p class="sections">{"".join(f"<a href={chr(34)}{relative(path, page.path)}{chr(34)}>{escape(name)}</a>" for name, path in self.sections.items())}</p>']
        for group, members in groups.items():
            links = "".join(f'<li><a href="{relative(other.path, page.path)}"{" aria-current=page" if other is page else ""}>{escape(other.label or other.title)}</a></li>' for other in members)
            parts.append((f"<h2>{escape(group)}</h2>" if group else "") + f"<ul>{links}</ul>")
        return "".join(parts)

    def _contents(self, page: Page) -> str:
        shown = [(level, anchor, text) for level, anchor, text in page.headings if level in (2, 3)]
        if len(shown) < 2:
            return ""
        links = "".join(f'<li class="level{level}"><a href="#{anchor}">{escape(text).replace("_", "_<wbr>")}</a></li>' for level, anchor, text in shown)
        return f'<aside class="contents" aria-label="on this page"><h2>On this page</h2><ul>{links}</ul></aside>'

    def _neighbours(self, page: Page) -> str:
        same = [other for other in self.pages if other.section == page.section]
        place = same.index(page)
        before, after = same[place - 1] if place else None, same[place + 1] if place + 1 < len(same) else None
        links = "".join(f'<a class="{kind}" href="{relative(other.path, page.path)}"><small>{word}</small>{escape(other.title)}</a>'
                        for other, kind, word in ((before, "before", "previous"), (after, "after", "next")) if other)
        return f'<nav class="neighbours" aria-label="previous and next page">{links}</nav>' if links else ""

    def html(self, page: Page) -> str:
        """The whole document."""
        base = relative("index.html", page.path).removesuffix("index.html")
        subtitle = f'<p class="subtitle">{page.subtitle}</p>' if page.subtitle else ""
        title = f"<h1>{escape(page.title)}</h1>{subtitle}"
        return f"""<!doctype html>
<html lang="en" data-base="{base}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(page.title)} · seg1a</title><meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">
<script>{THEME}</script>
<link rel="stylesheet" href="{base}static/site.css"></head>
<body class="{'home' if page.path == 'index.html' else 'wide' if page.wide else ''}"><a class="skip" href="#the-text">to the text</a>
{self._head(page)}
<div class="layout"><nav class="side" id="the-list" aria-label="pages">{self._side(page)}</nav>
<main id="the-text">{title}
{page.body}
{self._neighbours(page)}
<footer>{self.footer}</footer></main>
{self._contents(page)}</div>
<script src="{base}static/site.js" defer></script></body></html>
"""


def search_index(pages: list[Page]) -> str:
    """The script that the search box loads: a row a section, [page title, section of the site, heading, place, words]."""
    rows = [[page.title, page.section, heading, page.path + (f"#{anchor}" if anchor else ""), words]
            for page in pages for anchor, heading, words in (page.indexed or [("", "", "")])]
    return f"window.docsIndex={json.dumps(rows, ensure_ascii=False, separators=(',', ':'))};\n"


def write_site(target: Path, frame: Frame) -> None:
    """Write pages, index and static files; `target` is empty."""
    for page in frame.pages:
        place = target / page.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(frame.html(page), "utf-8")
    shutil.copytree(STATIC, target / "static", dirs_exist_ok=True)
    (target / "static" / "search.js").write_text(search_index(frame.pages), "utf-8")
