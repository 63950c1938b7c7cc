"""The contracts as tables: datasets and documents with the meaning of every column, failure codes, alerts, artefacts, policies."""
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from docs_html import Markdown, Page, code_block, escape, relative, table_html
from docs_reference import Module
from ruamel.yaml import YAML

COLUMNS = Path(__file__).parent / "docs_columns.yaml"
SECTION = "Contracts"
PATTERNS = {"^[a-f0-9]{64}$": "64 hex digits", "^[a-f0-9]{32}$": "32 hex digits", "^[A-Z]{2}$": "two capital letters", "^([a-f0-9]{40}|[a-f0-9]{64})$": "40 or 64 hex digits",
            "^(0|[1-9][0-9]{0,38})$": "decimal digits", r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$": "UTC time to the microsecond", r"^[0-9]+(\.[0-9]+)?$": "a decimal number",
            "^[0-9]{6}$": "six digits", "^[A-Z]{3}$": "three capital letters", "^[A-Z0-9_]+$": "capital letters, digits, _"}
LARGE = {18446744073709551615: "2^64-1", 9223372036854775807: "2^63-1"}


def meanings() -> dict:
    """`docs_columns.yaml`: `datasets` and `documents` by id, `columns` by name, `only` by schema and name."""
    return YAML(typ="safe", pure=True).load(COLUMNS.read_text("utf-8"))


def flat(schema: Mapping) -> dict:
    """A schema whose `allOf` is merged into it; of a list the schema of its rows."""
    merged: dict = {}
    for part in schema.get("allOf", []):
        found = flat(part)
        merged = {**merged, **found, "properties": merged.get("properties", {}) | found.get("properties", {})}
    own = {key: value for key, value in schema.items() if key not in ("allOf", "properties")}
    properties = merged.get("properties", {}) | dict(schema.get("properties", {}))
    return {**merged, **own} | ({"properties": properties} if properties else {})


def columns(schema: Mapping) -> dict[str, tuple[Mapping, bool]]:
    """Name -> (schema, always there) of the columns of a row, or the keys of a document; variants are united."""
    if schema.get("type") == "array":
        return columns(schema["items"])
    found: dict[str, tuple[Mapping, bool]] = {}
    for part in [*schema.get("allOf", []), *schema.get("oneOf", []), *schema.get("anyOf", [])]:
        found |= {name: value if name not in found else (value[0], value[1]) for name, value in columns(part).items()}
    for name, node in schema.get("properties", {}).items():
        found[name] = (node, name in schema.get("required", ()) or (name in found and found[name][1]))
    required = set(schema.get("required", ()))
    return {name: (node, always or name in required) for name, (node, always) in found.items()}


def _range(node: Mapping) -> str:
    """The limits of a number in words, or nothing."""
    low, high = ((node[key] if key in node else node.get(strict), strict in node) for key, strict in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")))
    (low, above), (high, below) = low, high
    if low is None and high is None:
        return ""
    if high is None or low is None:
        return f"{'>' if above else '≥'} {low}" if high is None else f"{'<' if below else '≤'} {LARGE.get(high, high)}"
    return f"{low} to {LARGE.get(high, high)}" + (", both excluded" if above and below else "")


def type_words(node: Mapping, plain: bool = True) -> str:
    """The JSON type of a value in words; `plain=False` leaves out what a column type says already."""
    if node is True:
        return "any"
    node = flat(node)
    if "const" in node:
        return f"always <code>{escape(_json(node['const']))}</code>"
    if "enum" in node:
        return "one of " + ", ".join(f"<code>{escape(_json(value))}</code>" for value in node["enum"])
    if variants := node.get("anyOf") or node.get("oneOf"):
        return " or ".join(dict.fromkeys(filter(None, (type_words(part, plain or part.get("type") == "null") for part in variants))))
    kinds = [node.get("type", "any")] if isinstance(node.get("type", "any"), str) else node["type"]
    shown = " or ".join(kind for kind in kinds if plain or kind == "null")
    if "array" in kinds and plain and "items" in node:
        shown += f" of {type_words(node['items'])}"
    if kinds == ["object"] and 0 < len(node.get("properties", {})) <= 8:
        shown += " of " + ", ".join(f"<code>{escape(name)}</code>" for name in node["properties"])
    notes = [shown, _range(node), PATTERNS.get(node.get("pattern"), f"<code>{escape(node.get('pattern', ''))}</code>") if "pattern" in node else ""]
    return ", ".join(filter(None, notes))


def _json(value: object) -> str:
    return {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)


def documents(contracts) -> Iterator[tuple[str, str, list[str]]]:
    """(name of the schema, reference, ids or files that have it) of every schema that a dataset or a file of a folder has."""
    users: dict[str, list[str]] = {}
    for record in contracts.datasets().values():
        if record.schema_ref and record.format != "folder":
            users.setdefault(record.schema_ref, []).append(record.id)
        for name, ref in record.contents.items():
            if ref:
                users.setdefault(ref, []).append(f"{record.id}/{name}")
    yield from ((ref.rsplit("/", 1)[1], ref, found) for ref, found in users.items())


def places(contracts, codes: Mapping) -> dict[str, str]:
    """Where in the site a dataset or a code is explained, by its name."""
    homes = {record.id: f"{next(path for path, _, _, chosen in DATASET_PAGES if chosen(record))}#{record.id}" for record in contracts.datasets().values()}
    return homes | {code: f"contracts/codes.html#{code}" for code in codes}


def gaps(contracts, told: Mapping) -> tuple[set, set]:
    """What `docs_columns.yaml` does not explain but the contracts have, and what it explains though nothing has it."""
    wanted = {("datasets", name) for name in contracts.datasets()}
    wanted |= {("documents", name) for record in contracts.datasets().values() for name, ref in record.contents.items() if ref is None}
    for schema, ref, users in documents(contracts):
        wanted |= {("documents", schema)} if any("/" in user for user in users) else set()
        own = told["only"].get(schema, {})
        wanted |= {("only", schema, name) if name in own else ("columns", name) for name in columns(contracts.schema(ref))}
    there = {(block, name) for block in ("datasets", "documents", "columns") for name in told[block]} | {("only", schema, name) for schema, names in told["only"].items() for name in names}
    return wanted - there, there - wanted


class ContractPages:
    """The pages that are made from contracts, codes and alert rules."""

    def __init__(self, contracts, names):
        self.contracts, self.told, self._names = contracts, meanings(), names

    def meaning(self, schema: str, name: str) -> str:
        """What a column means; LookupError when nobody has said."""
        found = self.told["only"].get(schema, {}).get(name) or self.told["columns"].get(name)
        if found is None:
            raise LookupError(f"{COLUMNS.name} does not say what {name} of {schema} means")
        return found

    def _column_table(self, schema: str, ref: str, markdown: Markdown) -> str:
        """The columns of one schema."""
        node = self.contracts.schema(ref)
        table = flat(node).get("x-table")
        rows = []
        for name, (column, always) in columns(node).items():
            arrow = f"<code>{escape(table['columns'][name])}</code>" if table and name in table.get("columns", {}) else ""
            words = ", ".join(filter(None, [arrow, type_words(column, not arrow)]))
            meaning = self.meaning(schema, name)
            markdown.words(f"{name} {meaning}")
            rows.append([f"<code>{escape(name)}</code>", f"{words}{'' if always else ' <em>may be absent</em>'}", markdown.html(meaning).removeprefix("<p>").removesuffix("</p>\n")])
        return table_html(["column" if table or "rng" in schema else "key", "type", "meaning"], rows, "schema")

    def _facts(self, record, page: Page) -> str:
        """Path, partitions, order and keepers of a dataset."""
        gate = record.gating
        facts = [("path", f"<code>{escape(record.path)}</code>"), ("format", record.format), ("ordered by", ", ".join(record.ordering) or "as written"),
                 ("written by", record.produced_by), ("read by", ", ".join(record.consumed_by) or "nobody inside the engine"),
                 ("there for", f"merchants with <code>{escape(gate['predicate'])}</code> in <code>{gate['gated_by']}</code>" if gate else ""),
                 ("kept", f"{record.retention_days} days" if record.retention_days else "")]
        return '<dl class="facts">' + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts if value) + "</dl>"

    def dataset_page(self, path: str, title: str, subtitle: str, chosen) -> Page:
        """Datasets with their columns."""
        page = Page(path, title, SECTION, subtitle=subtitle, wide=True)
        markdown = Markdown(page, self._names)
        parts = []
        for record in filter(chosen, self.contracts.datasets().values()):
            parts.append(markdown.heading(2, record.id, record.id) + markdown.html(self.told["datasets"][record.id]) + self._facts(record, page))
            if record.format != "folder" and record.schema_ref:
                parts.append(self._column_table(record.schema_ref.rsplit("/", 1)[1], record.schema_ref, markdown))
            elif record.contents:
                parts.append(self._folder_table(record, page))
        page.body = "".join(parts)
        return page

    def _folder_table(self, record, page: Page) -> str:
        """The files of a folder."""
        rows = []
        for name, ref in record.contents.items():
            schema = ref and ref.rsplit("/", 1)[1]
            place = f"contracts/documents.html#{schema}"
            rows.append([f"<code>{escape(name)}</code>", f'<a href="{relative(place, page.path)}"><code>{schema}</code></a>' if schema else "", escape(self.told["documents"].get(schema or name, ""))])
        return table_html(["file", "schema", "what it says"], rows, "files")

    def document_page(self) -> Page:
        """Every JSON document and log of a folder, with its keys."""
        page = Page("contracts/documents.html", "Documents", SECTION, subtitle="Every file of the bundles and working folders: its keys, their types and meanings", wide=True)
        markdown = Markdown(page, self._names)
        parts = []
        for schema, ref, users in documents(self.contracts):
            if any("/" in user for user in users):
                files = ", ".join(f"<code>{escape(user)}</code>" for user in users if "/" in user)
                parts.append(markdown.heading(2, schema, schema) + markdown.html(self.told["documents"][schema]) + f'<p class="origin">{files}</p>' + self._column_table(schema, ref, markdown))
        page.body = "".join(parts)
        return page

    def overview(self) -> Page:
        """The first page of the contracts."""
        page = Page("contracts/index.html", "Contracts", SECTION, subtitle="What is written where, in which shape, by whom, for whom", wide=True, label="Overview")
        markdown = Markdown(page, self._names)
        rows = [[f'<a href="{relative(f"{self._home(record)}#{record.id}", page.path)}"><code>{record.id}</code></a>', record.format, record.produced_by, ", ".join(record.consumed_by),
                 markdown.html(self.told["datasets"][record.id]).removeprefix("<p>").removesuffix("</p>\n")] for record in self.contracts.datasets().values()]
        page.body = markdown.html("Five YAML documents in `seg1a/core/contracts/` know every dataset, path, column, gate and artefact; all that is written is checked against them. "
                                  "These pages are made from those documents.") + table_html(["dataset", "format", "written by", "read by", "what it is"], rows, "datasets")
        return page

    def _home(self, record) -> str:
        """The page on which a dataset stands."""
        return next(path for path, _, _, chosen in DATASET_PAGES if chosen(record))

    def artefact_page(self) -> Page:
        """The registry of governed files."""
        page = Page("contracts/artefacts.html", "Artefacts", SECTION, subtitle="Every governed file: where it lies in a pack, and which hash its bytes move", wide=True)
        markdown = Markdown(page, self._names)
        rows = [[f"<code>{escape(one.name)}</code>", escape(one.role.replace("_", " ")), "yes" if one.required else "", "parameter_hash" if one.in_parameter_hash else "", "fingerprint" if one.in_manifest else "",
                 f"<code>{escape(one.path)}</code>"] for one in self.contracts.artefacts().values()]
        page.body = markdown.html("A file that enters the `parameter_hash` decides about draws or tables; one that enters only the manifest fingerprint seals what was there. "
                                  "The [guide to policies](../guides/policy.html) says what moves when one of them changes.") + table_html(["file", "role", "required", "draws", "seal", "path"], rows, "artefacts")
        page.indexed.append(("", "", " ".join(one.name for one in self.contracts.artefacts().values())))
        return page


DATASET_PAGES = (
    ("contracts/inputs.html", "Input tables", "What a pack brings", lambda record: record.root == "pack"),
    ("contracts/tables.html", "Tables of a run", "What S0 to S4 write under parameter_scoped/", lambda record: record.section == "parameter_scoped"),
    ("contracts/logs.html", "Logs of the random numbers", "Audit, trace and events: enough to draw everything again", lambda record: record.section in ("rng_logs", "rng_events")),
    ("contracts/evidence.html", "Evidence and telemetry", "Bundles, working folders, summaries, failure records, promoted runs", lambda record: record.root != "pack" and record.section not in ("parameter_scoped", "rng_logs", "rng_events")),
)


def code_page(table: Mapping, classes: Mapping, modules: list[Module]) -> Page:
    """The table of failure codes, class by class, with the modules that know each."""
    page = Page("contracts/codes.html", "Failure codes", SECTION, subtitle=f"All {len(table)} codes: what each means and what to do", wide=True)
    markdown = Markdown(page)
    parts = ['<p class="filter"><label>Show codes with <input type="search" data-filter="codes" placeholder="part of a code, a word, a scope"></label></p>']
    for key, title in classes.items():
        chosen = [record for record in table.values() if record.failure_class == key]
        parts.append(markdown.heading(2, f"{key} {title}"))
        rows = []
        for record in chosen:
            users = [module for module in modules if re.search(rf"[\"']{re.escape(record.code)}[\"']", module.text)]
            told = " ".join(f'<a href="{relative(module.page, page.path)}">{module.name.removeprefix("seg1a.")}</a>' for module in users)
            page.indexed.append((record.code, record.code, f"{record.meaning} {record.remedy}"))
            rows.append([f'<code id="{escape(record.code)}">{escape(record.code).replace("_", "_<wbr>").replace(":", ":<wbr>")}</code><small>{told}</small>', f"{record.scope}<small>exit {record.exit_status}</small>", escape(record.meaning), escape(record.remedy)])
        parts.append(table_html(["code", "scope", "meaning", "what to do"], rows, "codes"))
    page.body = "".join(parts)
    return page


def alert_page(rules, limits: Mapping) -> Page:
    """The table of alerts, stage by stage."""
    page = Page("contracts/alerts.html", "Alerts", SECTION, subtitle="What an operator is woken for, and what to do first", wide=True)
    markdown = Markdown(page)
    parts = [markdown.html("`seg1a alerts ROOT` evaluates this table; [the operator's guide](../guides/operator.html#alerts) shows it at work. A metric that is missing counts as firing when the alert is critical. "
                           "A limit with a name stands in `validation_policy.yaml`; the number behind it holds when the policy is silent.")]
    for stage in dict.fromkeys(rule.stage for rule in rules):
        rows = []
        for rule in (rule for rule in rules if rule.stage == stage):
            limit = f"<code>{rule.limit}</code>" + (f" ({limits[rule.limit]:g})" if limits.get(rule.limit) is not None else "") if isinstance(rule.limit, str) else f"<code>{_json(rule.limit)}</code>"
            rows.append([f"<code>{rule.id.replace('_', '_<wbr>')}</code>", f'<span class="severity {rule.severity}">{rule.severity}</span>', f"<code>{rule.metric}</code> {escape(rule.comparison)} {limit}", escape(rule.remedy)])
        parts.append(markdown.heading(2, stage if stage.startswith("S") else stage.capitalize()) + table_html(["alert", "severity", "fires when", "first thing to do"], rows, "alerts"))
        markdown.words(" ".join(f"{rule.id} {rule.metric} {rule.remedy}" for rule in rules if rule.stage == stage))
    page.body = "".join(parts)
    return page


def policy_page(folder: Path, artefact, links) -> Page:
    """Every policy file with its comments, and which hash it moves."""
    page = Page("contracts/policies.html", "Policies", SECTION, subtitle="The governed numbers of the development pack, each with the reason for it", wide=True)
    markdown = Markdown(page, links=links(page))
    text = re.sub(r"\A# .*\n", "", (folder / "README.md").read_text("utf-8"))
    parts = [markdown.html(text)]
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".yaml", ".json"):
            continue
        lines = path.read_text("utf-8").split("\n")
        shown = "\n".join(line if len(line) < 220 else line[:200] + " …" for line in lines[:160]) + (f"\n… {len(lines) - 160} more lines" if len(lines) > 160 else "")
        parts.append(markdown.heading(2, path.name))
        record = artefact(path.name)
        moves = "in no pack" if record is None else "moves parameter_hash and fingerprint" if record.in_parameter_hash else "moves the fingerprint alone"
        parts.append(f'<p class="origin">policies/{path.name}: {moves}</p>' + code_block(shown, path.suffix[1:]))
        markdown.words(" ".join(line for line in lines if "#" in line)[:6000])
    page.body = "".join(parts)
    return page
