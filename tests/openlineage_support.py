"""The published schema of OpenLineage, as the classes that its project generates from it (package `openlineage-python`).

`conform(RunEvent, document)` builds the object that a JSON document describes, strictly: no key too many, none too few, every value of
the declared type, every facet of the class and version that its `_schemaURL` names, and every format check of the classes themselves.
"""

import importlib
import pkgutil
import types
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

import attr
import openlineage.client.generated as generated
from openlineage.client.generated.base import BaseFacet, RunEvent

__all__ = ["RunEvent", "conform"]


def _facet_classes() -> dict[str, type]:
    """Schema address -> class of every facet that the project publishes."""
    modules = [importlib.import_module(f"{generated.__name__}.{found.name}") for found in pkgutil.iter_modules(generated.__path__)]
    kinds = (kind for module in modules for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, BaseFacet))
    return {kind._get_schema(): kind for kind in kinds}


FACETS = _facet_classes()


def conform(kind: Any, value: Any, where: str = "$") -> Any:
    """The object of class (or type hint) `kind` that `value` describes; AssertionError or the class's own ValueError."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else conform(next(part for part in get_args(kind) if part is not type(None)), value, where)
    if origin is list:
        assert isinstance(value, list), f"{where} is no list"
        return [conform(get_args(kind)[0], entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    if origin is dict:
        assert isinstance(value, dict), f"{where} is no object"
        return {key: conform(get_args(kind)[1], entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    return _object(kind, value, where) if attr.has(kind) else _plain(kind, value, where)


def _plain(kind: Any, value: Any, where: str) -> Any:
    """A text, number or boolean."""
    assert kind is Any or type(value) is kind, f"{where}: {value!r} is no {kind}"
    return value


def _object(kind: type, value: Any, where: str) -> Any:
    """An object of a class, or for a facet of the class that its address names."""
    assert isinstance(value, dict), f"{where} is no object"
    if issubclass(kind, BaseFacet):
        assert value.get("_schemaURL") in FACETS and issubclass(FACETS[value["_schemaURL"]], kind), f"{where}: no such facet: {value.get('_schemaURL')}"
        kind = FACETS[value["_schemaURL"]]
    hints, fields = get_type_hints(kind), {field.name: field for field in attr.fields(kind)}
    required = {name for name, field in fields.items() if field.default is attr.NOTHING} | (fields.keys() & {"_producer", "_schemaURL", "producer", "schemaURL"})
    assert required <= value.keys() <= fields.keys(), f"{where}: keys {sorted(value)} are not those of {kind.__name__}"
    content = {name: conform(hints[name], entry, f"{where}.{name}") for name, entry in value.items()}
    built = kind(**{fields[name].alias: entry for name, entry in content.items() if fields[name].init})
    assert all(getattr(built, name) == entry for name, entry in content.items()), f"{where} is not what {kind.__name__} makes of it"
    return built
