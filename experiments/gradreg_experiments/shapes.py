"""The shape of a run's result, so that reading refuses a file of another shape and names the place."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["digest", "misshapen"]

_SETTINGS = ("version", "protocol", "regularizer", "seed", "backend", "data")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "version": int,
    "protocol": dict,
    "regularizer": (dict, type(None)),
    "seed": int,
    "backend": str,
    "data": str,
    "kind": str,
    "versions": dict,
    "task": str,
    "rule": str,
    "penalty": str,
}
_NUMBERS: dict[str, tuple[str, ...]] = {
    "accuracy": ("test", "official"),
    "robustness": ("clean", "noise", "fgsm", "pgd"),
    "gradient": ("train", "random"),
    "largest_gradient": ("train", "random"),
    "losses": (),
    "every_loss": (),
    "curve": (),
    "gradient_curve": (),
}
"""Fields whose leaves are numbers or null: if they are objects, the objects' keys; the other fields are lists."""
_NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "": (("accuracy", "jacobian_frobenius"), ("gradient", "largest_gradient", "rms_error", "curve", "gradient_curve")),
    "curve": (("every_loss",),),
}
"""By kind of run: sets of fields, of which a result has one complete set."""
_LISTS = {
    "runs": {"setting", "validation", "test", "norm"},
    "outcomes": {"setting", "steps", "train", "validation", "test", "noise"},
}
"""Fields that are lists of objects, with the objects' keys."""


def digest(settings: Mapping[str, Any]) -> str:
    """The key of a run with these settings, 16 hexadecimal digits."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def misshapen(value: Any) -> str:
    """The problem with a result, as the end of "expected a run's result, ..."; empty if there is none."""
    if not isinstance(value, dict) or not isinstance(value.get("key"), str):
        return "a JSON object with a key"
    for name, kind in _TYPES.items():
        if name in value and (not isinstance(value[name], kind) or (kind is int and isinstance(value[name], bool))):
            return f"whose {name!r} is of another type than {type(value[name]).__name__}"
    for name, keys in _NUMBERS.items():
        if name in value and not (_numbers(value[name]) and _has(value[name], keys)):
            return (
                f"whose {name!r} is {'an object of numbers with ' + ', '.join(keys) if keys else 'a list of numbers'}"
            )
    for name, needed in _LISTS.items():
        if name in value and not _objects(value[name], needed):
            return f"whose {name!r} are a list of objects with {', '.join(sorted(needed))}"
    return _wrong_run(value) if "protocol" in value else ""


def _wrong_run(value: dict[str, Any]) -> str:
    """The problem with the result of a job."""
    if lacking := [name for name in _SETTINGS if name not in value]:
        return f"with {', '.join(map(repr, lacking))}"
    kind = value.get("kind", "")
    settings = {name: value[name] for name in _SETTINGS} | ({"kind": kind} if kind else {})
    if digest(settings) != value["key"]:
        return "whose key is the digest of its settings: one of them was changed"
    needed = _NEEDED.get(kind, ((),))
    if not any(all(name in value for name in names) for names in needed):
        return f"with {' or '.join(', '.join(map(repr, names)) for names in needed)}"
    return ""


def _numbers(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_numbers, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, int | float)


def _has(value: Any, keys: tuple[str, ...]) -> bool:
    return isinstance(value, dict) and all(key in value for key in keys) if keys else isinstance(value, list)


def _objects(value: Any, needed: set[str]) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) and set(entry) >= needed for entry in value)
