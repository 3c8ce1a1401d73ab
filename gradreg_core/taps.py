"""Places inside a model: `tap` marks an activation, and a forward pass keeps the requested ones.

A name may be followed by the number of the call if a place is passed several times, and by the path of a leaf if a
module returns a structure: ``"block"``, ``"block#1"``, ``"lstm[0]"``, ``"encoder#0[last_hidden_state]"``.
"""

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from typing_extensions import Self

from gradreg_core.errors import InputError
from gradreg_core.keras_masks import with_keras_mask
from gradreg_core.structures import Leaves, Rebuild

__all__ = ["Place", "Places", "active_places", "tap"]

Place = str | None
"""The name of a place; None is the input of the model, or its outputs."""
Mark = Callable[[str, Any], Any]
"""(place, value) -> the value that the model continues with."""
_PATTERN = re.compile(r"(?P<name>.*?)(#(?P<call>\d+))?(\[(?P<leaf>[^\[\]]+)\])?", re.DOTALL)
_here = threading.local()  # a ContextVar cannot be set inside torch.compile


def tap(name: str, value: Any) -> Any:
    """Mark an activation: return `value` itself, under a name that `at=` and `of=` of a regularizer can use.

    Outside a gradreg call it is the identity. Inside, it lets the Jacobian start or end at this place::

        code = gradreg.tap("code", encoder(x))
        return decoder(code)

    ``FrobReg(0.1, of="code")`` then penalises the code's Jacobian with respect to the input, and
    ``SpectReg(0.01, at="code")`` the outputs' Jacobian with respect to the code, from the same forward pass.

    Args:
        name: of the place, without ``#`` and brackets. A place passed several times is told apart as ``"name#1"``.
        value: an array with the batch axis first.

    Raises:
        InputError: inside a call, the name has one of these characters; or a regularizer names the place without a
            number, and it is passed a second time.
    """
    places = active_places()
    if places is None:
        return value
    if not isinstance(name, str) or set("#[]") & set(name):
        raise InputError(f"tap: a name is text without '#', '[' and ']', which tell its calls apart, got {name!r}.")
    return with_keras_mask(places.visit(name, value), value)


def active_places() -> "Places | None":
    """The places of the forward pass that this thread is in, if it runs one that needs some."""
    places: Places | None = getattr(_here, "places", None)
    return places


@dataclass(frozen=True)
class _Wanted:
    """A place, taken apart."""

    key: str
    name: str
    call: int | None
    leaf: str | None

    @classmethod
    def of(cls, key: str) -> "_Wanted":
        match = _PATTERN.fullmatch(key)
        assert match is not None
        call = match["call"]
        return cls(key, match["name"], None if call is None else int(call), match["leaf"])


class Places:
    """A context for one forward pass: keeps the values of the requested places as the model passes them.

    Args:
        keys: the places.
        mark: called with each place and its value; returns the value that the model continues with.
    """

    def __init__(self, keys: Iterable[str], mark: Mark) -> None:
        self.mark = mark
        self.values: dict[str, Any] = {}
        self.passed: list[str] = []
        """The names of all places passed, in order."""
        self._wanted = [_Wanted.of(key) for key in dict.fromkeys(keys)]
        self._before: Places | None = None

    def __enter__(self) -> Self:
        self._before = active_places()
        _here.places = self
        return self

    def __exit__(self, *error: Any) -> None:
        _here.places = self._before

    def wants(self, name: str) -> bool:
        """Whether any of the places has this name."""
        return any(wanted.name == name for wanted in self._wanted)

    def visit(self, name: str, value: Any, flatten: Callable[[Any], tuple[Leaves, Rebuild]] | None = None) -> Any:
        """The value to continue with, at a place that is being passed.

        Args:
            name: of the place.
            value: an array, or with `flatten` any structure of arrays.
            flatten: the structure's leaves that are floating-point arrays, and a function that puts others there.

        Raises:
            InputError: the place is passed a second time and requested without a number; or it has no such leaf.
        """
        call = self.passed.count(name)
        self.passed.append(name)
        for wanted in self._wanted:
            if wanted.name != name or wanted.call not in (None, call):
                continue
            if wanted.call is None and call:
                raise InputError(
                    f"the place {name!r} is passed more than once in a forward pass. Say which time: {name + '#0'!r}, "
                    f"{name + '#1'!r} and so on; or give its taps different names."
                )
            value = self._marked(wanted, value, flatten)
        return value

    def _marked(self, wanted: _Wanted, value: Any, flatten: Callable[[Any], tuple[Leaves, Rebuild]] | None) -> Any:
        if flatten is None:
            if wanted.leaf is not None:
                raise InputError(f"{wanted.key!r}: a tap marks one array, so it takes no [{wanted.leaf}].")
            self.values[wanted.key] = self.mark(wanted.key, value)
            return self.values[wanted.key]
        leaves, rebuild = flatten(value)
        paths = [path for path, _ in leaves]
        if not leaves or wanted.leaf not in (None, *paths):
            has = ", ".join(path or "one array" for path in paths) or "no floating-point array"
            raise InputError(
                f"{wanted.key!r}: what is returned there holds {has}"
                + (f", and no {wanted.leaf!r}. Name one of these in the brackets." if paths else ".")
            )
        index = 0 if wanted.leaf is None else paths.index(wanted.leaf)
        leaf = leaves[index][1]
        marked = self.values[wanted.key] = with_keras_mask(self.mark(wanted.key, leaf), leaf)
        return rebuild([marked if position == index else leaf for position, (_, leaf) in enumerate(leaves)])

    def require_all(self, also: Iterable[str] = ()) -> None:
        """Refuse a forward pass that did not pass every place.

        Args:
            also: further names in the model, for the message.

        Raises:
            InputError: a place was not passed.
        """
        missing = [wanted.key for wanted in self._wanted if wanted.key not in self.values]
        if missing:
            names = list(dict.fromkeys([*self.passed, *also]))
            listed = ", ".join(map(repr, names[:20])) or "none"
            raise InputError(
                f"no tap or layer {missing[0]!r} was passed in the forward pass. Passed were: {listed}. Name one of "
                f"these, or mark the activation in the model: h = gradreg.tap({missing[0].partition('#')[0]!r}, h)."
            )

    def position(self, key: str) -> int:
        """The order in which a place was passed."""
        wanted = _Wanted.of(key)
        calls = [index for index, name in enumerate(self.passed) if name == wanted.name]
        return calls[wanted.call or 0]
