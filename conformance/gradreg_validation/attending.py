"""Softmax attention in NumPy, in the forms that ports mistake for one another."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["attention_weights", "attentions", "scales"]

_Named = Sequence[tuple[str, np.ndarray]]
_Rope = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Form:
    """How heads are formed and scores are made; the plain attention by default."""

    heads: int
    split: str = "by head"
    scale: str = "1/sqrt(features of a head)"
    axis: int = -1
    rotation: str = ""
    rotated: str = ""
    """The letters of what is rotated."""
    normed: str = ""
    """How queries and keys are normalised over the features of a head."""
    repeated: str = ""
    """How keys and values with fewer heads than the queries are repeated."""
    joined: bool = True
    """Whether the axis of the heads is moved back before they are joined."""

    @property
    def is_plain(self) -> bool:
        """Whether heads and softmax are in the usual layout."""
        return self.split == "by head" and self.axis == -1 and self.joined

    def words(self, mask: str, bias: str, label: str) -> str:
        """The form in a report."""
        extras = [self.repeated, self.normed, f"{self.rotation} in {self.rotated}" if self.rotation else "", bias]
        said = "".join(f", {extra}" for extra in extras if extra)
        over = "" if self.axis == -1 else ", softmax over the queries"
        apart = "" if self.joined else ", heads joined without moving the axis"
        return (
            f"attention with {self.heads} heads {self.split}, scale {self.scale}, {mask}{said}{over} ({label}){apart}"
        )


def attentions(
    target: np.ndarray, near: _Named, masks: _Named, constants: _Named = (), positions: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """(words, output in the target's shape) for the usual heads, scales, masks, rotations, biases and layouts.

    Args:
        target: (B, T, features) or (B, T, heads, features of a head).
        near: arrays that may be queries, keys and values, the latest first.
        masks: zeros and ones, (B, T) or with axes before the last.
        constants: parameters that may be a bias of the scores.
        positions: whether positions enter, as rotations of queries and keys or by such a bias, or not at all.
    """
    if target.ndim not in (3, 4):
        return
    batch, length = target.shape[:2]
    width = target[0, 0].size
    near = [(label, _by_position(array, length)) for label, array in near if array.ndim in (3, 4)]
    flat = [(label, array.reshape(*array.shape[:2], -1)) for label, array in near]
    given = {array.shape[2] for _, array in near if array.ndim == 4}
    heads = [h for h in range(1, min(width, 16) + 1) if width % h == 0 and (not given or h in given)]
    for label, (q, k, v) in _triples(flat, width, heads):
        if q.shape[1] != length or len({batch, len(q), len(k), len(v)}) > 1:
            continue
        allowed = _masks(masks, batch, length, k.shape[1])
        for count in heads:
            biases = [*_biases(constants, count, length, k.shape[1]), *_alibi(count, length, k.shape[1])]
            for bias, added in [("", np.zeros(())), *(biases if positions else ())]:
                forms = _forms(count, q.shape[2], k.shape[2], rotated=positions and not bias)
                for form in (one for one in forms if not bias or one.is_plain):
                    for mask, kept in allowed:
                        y = _attention(form, (q, k, v), kept, added)
                        yield form.words(mask, bias, label), y.reshape(target.shape)


def _by_position(array: np.ndarray, length: int) -> np.ndarray:
    """An array (B, T, ...); one of (B, heads, T, size) with its axes exchanged."""
    turned = array.ndim == 4 and array.shape[1] != length == array.shape[2]
    return array.swapaxes(1, 2) if turned else array


def _triples(
    flat: _Named, width: int, heads: Sequence[int]
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    alike = [(label, array) for label, array in flat if array.shape[2] == width][:3]
    for chosen in itertools.permutations(alike, 3):
        if chosen[1][1].shape == chosen[2][1].shape:
            (q, k, v) = (array for _, array in chosen)
            yield f"q, k, v = {', '.join(label for label, _ in chosen)}", (q, k, v)
    narrow = [(label, array) for label, array in flat if width % array.shape[2] == 0 and array.shape[2] < width][:3]
    for query, (key, value) in itertools.product(alike, itertools.permutations(narrow, 2)):
        if key[1].shape == value[1].shape:
            yield f"q, k, v = {query[0]}, {key[0]}, {value[0]}", (query[1], key[1], value[1])
    for label, array in flat:
        if array.shape[2] == 3 * width:
            thirds = np.split(array, 3, 2)
            for order in itertools.permutations(range(3)):
                q, k, v = (thirds[i] for i in order)
                yield f"{', '.join('qkv'[order.index(i)] for i in range(3))} = the thirds of {label}", (q, k, v)
            for count in heads:
                if count > 1:
                    split = array.reshape(*array.shape[:2], count, 3, -1)
                    q, k, v = (split[:, :, :, i].reshape(*array.shape[:2], -1) for i in range(3))
                    yield f"q, k, v = the thirds of {count} parts of {label}", (q, k, v)
            split = array.reshape(*array.shape[:2], width, 3)
            q, k, v = (split[..., i] for i in range(3))
            yield f"q, k, v = every third feature of {label}", (q, k, v)


def _masks(masks: _Named, batch: int, queries: int, keys: int) -> list[tuple[str, np.ndarray | None]]:
    """The masks to try, by their words: arrays (B or 1, 1, queries, keys) that are True where a key is kept."""
    causal = np.tril(np.ones((queries, keys), bool))[None, None]
    choices: list[tuple[str, np.ndarray | None]] = [("no mask", None), ("a causal mask", causal)]
    choices.append(("a causal mask without the diagonal", np.tril(np.ones((queries, keys), bool), -1)[None, None]))
    choices.append(
        ("a causal mask that lets one later position in", np.tril(np.ones((queries, keys), bool), 1)[None, None])
    )
    choices.append(("a mask of the past (causal, turned round)", np.triu(np.ones((queries, keys), bool))[None, None]))
    for label, mask in masks:
        if mask.shape == (batch, keys):
            whole = (mask != 0)[:, None, None, :]
        elif mask.ndim in (3, 4) and mask.shape[-2:] == (queries, keys):
            whole = (mask != 0).reshape(batch, -1, queries, keys)[:, :1]
        else:
            continue
        choices += [(f"{label} as a mask of what is kept", whole), (f"{label} as a mask of what is dropped", ~whole)]
        choices += [(f"a causal mask, and {label} of what is kept", whole & causal)]
        choices += [(f"a causal mask, and {label} of what is dropped", ~whole & causal)]
    return choices


def _forms(heads: int, width: int, narrow: int, rotated: bool) -> Iterator[_Form]:
    """Heads, scales and layouts with each other; rotations by themselves."""
    size = width // heads
    if narrow % size:
        return
    repeats: tuple[str, ...] = ("",)
    if narrow < width:
        repeats = ("each head of k and v repeated in place", "the heads of k and v repeated as a whole")
    for repeated in repeats:
        base = _Form(heads, repeated=repeated)
        if rotated:
            yield from (
                replace(base, normed=words, scale=name) for words in _NORMS for name in scales(width, size, heads)
            )
            if size % 2 == 0:
                for rotation, letters in itertools.product(_rotations(size), ("q and k", "q", "k", "q, k and v")):
                    yield replace(base, rotation=rotation, rotated=letters)
            continue
        for split in (
            ("by head", "interleaved", "without moving the axis") if heads > 1 and not repeated else ("by head",)
        ):
            for scale, axis in itertools.product(scales(width, size, heads), (-1, -2)):
                form = replace(base, split=split, scale=scale, axis=axis)
                yield form
                if heads > 1 and split == "by head" and axis == -1:
                    yield replace(form, joined=False)


def scales(width: int, size: int, heads: int) -> dict[str, float]:
    """The usual factors of the scores by name, each factor once."""
    factors = {"1/sqrt(features of a head)": size**-0.5, "1 (no scale)": 1.0, "1/(features of a head)": 1 / size}
    factors |= {"1/sqrt(all features)": width**-0.5, "1/sqrt(heads)": heads**-0.5}
    factors["sqrt(features of a head)"] = size**0.5
    first: dict[float, str] = {}
    for name, factor in factors.items():
        first.setdefault(factor, name)
    return {name: factor for factor, name in first.items()}


def _rotations(size: int) -> dict[str, tuple[float, str]]:
    """Rotary position encodings: base and layout, by their words."""
    return {
        f"rotary positions of {layout} with base {base:g}": (base, layout)
        for layout in ("halves", "neighbouring pairs")
        for base in (10_000.0, 500_000.0, 1_000_000.0, 100.0, 1000.0)
    }


def _rotated(x: np.ndarray, base: float, layout: str) -> np.ndarray:
    """(B, heads, T, size), each pair of features turned by its angle times the position."""
    size = x.shape[-1]
    angles = np.arange(x.shape[2])[:, None] * base ** (-np.arange(0, size, 2) / size)
    cos, sin = np.cos(angles), np.sin(angles)
    if layout == "halves":
        one, two = np.split(x, 2, -1)
        return np.concatenate([one * cos - two * sin, two * cos + one * sin], -1)
    one, two = x[..., ::2], x[..., 1::2]
    return np.stack([one * cos - two * sin, two * cos + one * sin], -1).reshape(x.shape)


def _biases(constants: _Named, heads: int, queries: int, keys: int) -> Iterator[tuple[str, np.ndarray]]:
    """Relative position biases, (heads, queries, keys), of parameters: tables of distances, or as they are."""
    distance = np.arange(queries)[:, None] - np.arange(keys)
    for label, array in constants:
        squeezed = array.reshape(array.shape[1:]) if array.ndim == 4 and len(array) == 1 else array
        if squeezed.shape == (heads, queries, keys):
            yield f"the bias {label}", squeezed
            if queries == keys:
                yield f"the bias {label} transposed", squeezed.swapaxes(1, 2)
        elif squeezed.ndim == 2 and {squeezed.shape[0], squeezed.shape[1]} == {heads, queries + keys - 1}:
            table = squeezed.T if squeezed.shape[0] == heads else squeezed
            yield f"the bias {label} by query minus key", np.moveaxis(table[distance + keys - 1], -1, 0)
            yield f"the bias {label} by key minus query", np.moveaxis(table[queries - 1 - distance], -1, 0)


def _alibi(heads: int, queries: int, keys: int) -> Iterator[tuple[str, np.ndarray]]:
    """Linear biases of the distance (ALiBi), whose slopes are powers of 2 ** (-8 / heads)."""
    distance = np.arange(queries)[:, None] - np.arange(keys)
    slopes = (2.0 ** (-8 / heads * np.arange(1, heads + 1)))[:, None, None]
    yield "ALiBi: minus slope times distance", -slopes * np.abs(distance)
    yield "ALiBi with the wrong sign: plus slope times distance", slopes * np.abs(distance)
    yield "ALiBi: slope times (key minus query)", -slopes * distance
    yield "ALiBi with the wrong sign: slope times (query minus key)", slopes * distance


def _attention(
    form: _Form, arrays: tuple[np.ndarray, np.ndarray, np.ndarray], mask: np.ndarray | None, bias: np.ndarray
) -> np.ndarray:
    width = arrays[0].shape[2]
    size = width // form.heads
    q, k, v = (_split(array, array.shape[2] // size, form.split) for array in arrays)
    if form.repeated:
        times = q.shape[1] // k.shape[1]
        spread = (
            (lambda x: np.repeat(x, times, 1))
            if "in place" in form.repeated
            else lambda x: np.tile(x, (1, times, 1, 1))
        )
        k, v = spread(k), spread(v)
    if form.normed:
        q, k = (_NORMS[form.normed](x) for x in (q, k))
    if form.rotation:
        base, layout = _rotations(size)[form.rotation]
        q, k, v = (
            _rotated(x, base, layout) if letter in form.rotated.replace("and", "") else x
            for letter, x in zip("qkv", (q, k, v), strict=True)
        )
    scores = q @ np.swapaxes(k, -1, -2) * scales(width, size, form.heads)[form.scale] + bias
    y = attention_weights(scores, mask, form.axis) @ v
    return _joined(y, form.split) if form.joined else y


def _rms(x: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


_NORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{f"q and k over their root mean square, eps={eps:g}": functools.partial(_rms, eps=eps) for eps in (1e-6, 1e-5)},
    "q and k over their norm": lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True),
    "q and k centred and over their deviation, eps=1e-06": lambda x: _rms(x - x.mean(-1, keepdims=True), 1e-6),
    "q and k centred and over their deviation, eps=1e-05": lambda x: _rms(x - x.mean(-1, keepdims=True), 1e-5),
}


def _split(array: np.ndarray, heads: int, how: str) -> np.ndarray:
    batch, length, _ = array.shape
    if how == "by head":
        return array.reshape(batch, length, heads, -1).transpose(0, 2, 1, 3)
    if how == "interleaved":
        return array.reshape(batch, length, -1, heads).transpose(0, 3, 1, 2)
    return array.reshape(batch, heads, length, -1)


def _joined(y: np.ndarray, how: str) -> np.ndarray:
    batch, _, length, _ = y.shape
    order = (0, 2, 3, 1) if how == "interleaved" else (0, 2, 1, 3)
    return y.transpose(order).reshape(batch, length, -1)


def attention_weights(scores: np.ndarray, mask: np.ndarray | None, axis: int) -> np.ndarray:
    """The softmax of the scores over an axis, with zeros where the mask is False."""
    if mask is not None:
        scores = np.where(mask, scores, -1e30)
    power = np.exp(scores - scores.max(axis, keepdims=True))
    return power / power.sum(axis, keepdims=True)
