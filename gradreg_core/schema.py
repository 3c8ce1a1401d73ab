"""Converts specifications to and from plain dicts of JSON values, with a schema version."""

from dataclasses import MISSING, fields
from typing import Any

from gradreg_core import norms, presets, projections, spec, terms
from gradreg_core.errors import SpecError

__all__ = ["SCHEMA_VERSION", "from_dict", "to_dict"]

SCHEMA_VERSION = 1


def _kinds(base: type, *modules: Any) -> dict[str, type]:
    """The concrete subclasses of `base` that the modules export, by name."""
    exported = [getattr(module, name) for module in modules for name in module.__all__]
    kinds = [value for value in exported if isinstance(value, type) and issubclass(value, base) and value is not base]
    return {kind.__name__: kind for kind in kinds if not getattr(kind, "abstract", False)}


_TERMS = _kinds(terms.Weighted, presets, spec)
_PARTS = _kinds(projections.Projection, projections) | _kinds(norms.Phi, norms)


def _plain(owner: str, value: Any) -> Any:
    if isinstance(value, projections.Projection | norms.Phi):
        return _fields(value)
    if isinstance(value, tuple):
        return [_plain(owner, item) for item in value]
    if callable(value):
        raise SpecError(f"{owner}: a weight schedule is a function and cannot be written to a dict; use a number.")
    return value


def _fields(value: Any) -> dict[str, Any]:
    """The kind of `value`, and its fields that differ from their defaults.

    Raises:
        SpecError: `from_dict` would not know the kind.
    """
    kind = type(value).__name__
    if type(value) not in (_TERMS.get(kind), _PARTS.get(kind)):
        raise SpecError(
            f"to_dict: expected a regularizer of gradreg, got {value!r}; from_dict knows no {kind} of others."
        )
    chosen = {
        field.name: getattr(value, field.name)
        for field in fields(value)
        if field.init and getattr(value, field.name) != field.default
    }
    return {"kind": kind, **{name: _plain(kind, chosen[name]) for name in chosen}}


def to_dict(regularizer: spec.Regularizer) -> dict[str, Any]:
    """`regularizer` as a dict of JSON values: ``{"schema": 1, "kind": "DataGrad", "weight": 50.0}``.

    Fields that have their defaults are left out; the schema version determines the defaults.

    Raises:
        SpecError: a weight is a function, or the regularizer is not one of gradreg's.
    """
    if isinstance(regularizer, spec.Sum):
        return {"schema": SCHEMA_VERSION, "kind": "Sum", "terms": [_fields(term) for term in regularizer.terms]}
    if not isinstance(regularizer, spec.Regularizer):
        raise SpecError(f"to_dict: expected a regularizer of gradreg, got {regularizer!r}.")
    return {"schema": SCHEMA_VERSION, **_fields(regularizer)}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _build(data: Any, kinds: dict[str, type]) -> Any:
    if not isinstance(data, dict) or "kind" not in data:
        raise SpecError(f"from_dict: expected a dict with a 'kind', got {data!r}.")
    kind = kinds.get(data["kind"]) if isinstance(data["kind"], str) else None
    if kind is None:
        raise SpecError(f"from_dict: unknown kind {data['kind']!r}; known are {', '.join(sorted(kinds))}.")
    known = {field.name for field in fields(kind) if field.init}
    given = {name: value for name, value in data.items() if name != "kind"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise SpecError(
            f"from_dict: {kind.__name__} has no field {', '.join(map(repr, unknown))}; it has {sorted(known)}."
        )
    missing = [field.name for field in fields(kind) if field.default is MISSING and field.name not in given]
    if missing:
        raise SpecError(f"from_dict: {kind.__name__} needs {', '.join(map(repr, missing))}.")
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
    items = body.get("terms")
    if not isinstance(items, list) or set(body) != {"kind", "terms"}:
        raise SpecError(f"from_dict: a Sum has 'terms', a list, and nothing else; got {sorted(body)}.")
    return spec.Sum(tuple(_build(term, _TERMS) for term in items))
