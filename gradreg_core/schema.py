"""Specifications to and from plain dicts of JSON values, with a schema version."""

from dataclasses import fields
from typing import Any

from gradreg_core import norms, presets, projections, spec
from gradreg_core.errors import SpecError

__all__ = ["SCHEMA_VERSION", "from_dict", "to_dict"]

SCHEMA_VERSION = 1
_LATER = frozenset({"side", "method", "h"})
"""Fields that came after the first release of the schema: written only where they are not the default, so that a
specification that could be written before is written as it was, and read by what was there before."""


def _kinds(base: type, *modules: Any) -> dict[str, type]:
    found = [getattr(module, name) for module in modules for name in module.__all__]
    concrete = (each for each in found if isinstance(each, type) and issubclass(each, base))
    return {each.__name__: each for each in concrete if hasattr(each, "__dataclass_fields__")}


_TERMS = {name: kind for name, kind in _kinds(spec.Term, presets, spec).items() if name not in ("Term", "JacobianTerm")}
_PARTS = _kinds(projections.Projection, projections) | _kinds(norms.Phi, norms)


def _plain(owner: str, value: Any) -> Any:
    if isinstance(value, projections.Projection | norms.Phi):
        return _fields(value)
    if isinstance(value, tuple):
        return [_plain(owner, each) for each in value]
    if callable(value):
        raise SpecError(f"{owner}: a weight schedule is a function and cannot be written to a dict; use a number.")
    return value


def _fields(value: Any) -> dict[str, Any]:
    kind = type(value).__name__
    written = [
        each
        for each in fields(value)
        if each.init and not (each.name in _LATER and getattr(value, each.name) == each.default)
    ]
    return {"kind": kind, **{each.name: _plain(kind, getattr(value, each.name)) for each in written}}


def to_dict(regularizer: spec.Regularizer) -> dict[str, Any]:
    """`regularizer` as a dict of JSON values: ``{"schema": 1, "kind": "DataGrad", "weight": 50.0, ...}``.

    Raises:
        SpecError: a weight is a function, or the regularizer is none of gradreg's.
    """
    if isinstance(regularizer, spec.Sum):
        return {"schema": SCHEMA_VERSION, "kind": "Sum", "terms": [_fields(term) for term in regularizer.terms]}
    if type(regularizer) not in _TERMS.values():
        raise SpecError(f"to_dict: expected a regularizer of gradreg, got {regularizer!r}.")
    return {"schema": SCHEMA_VERSION, **_fields(regularizer)}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def _build(data: Any, kinds: dict[str, type]) -> Any:
    if not isinstance(data, dict) or "kind" not in data:
        raise SpecError(f"from_dict: expected a dict with a 'kind', got {data!r}.")
    kind = kinds.get(data["kind"])
    if kind is None:
        raise SpecError(f"from_dict: unknown kind {data['kind']!r}; known are {', '.join(sorted(kinds))}.")
    known = {each.name for each in fields(kind) if each.init}
    given = {name: value for name, value in data.items() if name != "kind"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise SpecError(
            f"from_dict: {kind.__name__} has no field {', '.join(map(repr, unknown))}; it has {sorted(known)}."
        )
    if "weight" in known and "weight" not in given:
        raise SpecError(f"from_dict: {kind.__name__} needs a 'weight'.")
    built = {
        name: _build(value, _PARTS) if isinstance(value, dict) else _tuples(value) for name, value in given.items()
    }
    return kind(**built)


def from_dict(data: dict[str, Any]) -> spec.Regularizer:
    """The inverse of :func:`to_dict`.

    Raises:
        SpecError: the schema version, a kind or a field is unknown, or a value is invalid.
    """
    if not isinstance(data, dict) or data.get("schema") != SCHEMA_VERSION:
        version = data.get("schema") if isinstance(data, dict) else data
        raise SpecError(f"from_dict: expected a dict with 'schema': {SCHEMA_VERSION}, got {version!r}.")
    body = {name: value for name, value in data.items() if name != "schema"}
    if body.get("kind") != "Sum":
        regularizer: spec.Regularizer = _build(body, _TERMS)
        return regularizer
    terms = body.get("terms")
    if not isinstance(terms, list) or set(body) != {"kind", "terms"}:
        raise SpecError(f"from_dict: a Sum has 'terms', a list, and nothing else; got {sorted(body)}.")
    return spec.Sum(tuple(_build(term, _TERMS) for term in terms))
