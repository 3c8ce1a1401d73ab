"""Softmax attention in NumPy, in the forms that ports take for each other."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["attentions"]

_Named = Sequence[tuple[str, np.ndarray]]


def attentions(target: np.ndarray, near: _Named, masks: _Named) -> Iterator[tuple[str, np.ndarray]]:
    """(words, output in the target's shape) for the usual heads, scales, masks and layouts.

    Args:
        target: (B, T, features) or (B, T, heads, features of a head).
        near: arrays that may be queries, keys and values, the latest first.
        masks: zeros and ones, (B, T) or with axes before the last.
    """
    if target.ndim not in (3, 4):
        return
    batch = len(target)
    width = target[0, 0].size
    flat = [(label, array.reshape(*array.shape[:2], -1)) for label, array in near if array.ndim in (3, 4)]
    given = {array.shape[2] for _, array in near if array.ndim == 4}
    heads = [h for h in range(1, min(width, 16) + 1) if width % h == 0 and (not given or h in given)]
    for label, (q, k, v) in _triples(flat, width, heads):
        for count in heads:
            yield from _variants(label, (q, k, v), count, _masks(masks, batch, q.shape[1], k.shape[1]), target.shape)


def _triples(
    flat: _Named, width: int, heads: Sequence[int]
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    fitting = [(label, array) for label, array in flat if array.shape[2] == width][:3]
    if len(fitting) == 3:
        for order in itertools.permutations(range(3)):
            if fitting[order[1]][1].shape == fitting[order[2]][1].shape:
                labels = ", ".join(fitting[i][0] for i in order)
                yield f"q, k, v = {labels}", tuple(fitting[i][1] for i in order)  # type: ignore[misc]
    for label, array in flat:
        if array.shape[2] == 3 * width:
            q, k, v = np.split(array, 3, 2)
            yield f"q, k, v = the thirds of {label}", (q, k, v)
            yield f"k, q, v = the thirds of {label}", (k, q, v)
            for count in heads:
                if count > 1:
                    split = array.reshape(*array.shape[:2], count, 3, -1)
                    q, k, v = (split[:, :, :, i].reshape(*array.shape[:2], -1) for i in range(3))
                    yield f"q, k, v = the thirds of {count} parts of {label}", (q, k, v)


def _masks(masks: _Named, batch: int, queries: int, keys: int) -> list[tuple[str, np.ndarray | None]]:
    """What may be attended to, by its words: arrays (B or 1, 1, queries, keys)."""
    causal = np.tril(np.ones((queries, keys), bool))[None, None]
    choices: list[tuple[str, np.ndarray | None]] = [("no mask", None), ("a causal mask", causal)]
    choices.append(("a causal mask without the diagonal", np.tril(np.ones((queries, keys), bool), -1)[None, None]))
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


def _variants(
    label: str,
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    heads: int,
    masks: Sequence[tuple[str, np.ndarray | None]],
    shape: tuple[int, ...],
) -> Iterator[tuple[str, np.ndarray]]:
    width = arrays[0].shape[2]
    size = width // heads
    scales = {"1/sqrt(features of a head)": size**-0.5, "1 (no scale)": 1.0, "1/(features of a head)": 1 / size}
    scales["1/sqrt(all features)"] = width**-0.5
    scales["1/sqrt(heads)"] = heads**-0.5
    scales["sqrt(features of a head)"] = size**0.5
    splits = ("by head", "interleaved", "without moving the axis") if heads > 1 else ("by head",)
    for split in splits:
        q, k, v = (_split(array, heads, split) for array in arrays)
        products = q @ np.swapaxes(k, -1, -2)
        for scale, factor in scales.items():
            for words, mask in masks:
                for axis in (-1, -2):
                    y = _weights(products * factor, mask, axis) @ v
                    over = "" if axis == -1 else ", softmax over the queries"
                    text = f"attention with {heads} heads {split}, scale {scale}, {words}{over} ({label})"
                    if len({factor, size**-0.5}) == 1 and scale != "1/sqrt(features of a head)":
                        continue
                    yield text, _joined(y, split).reshape(shape)
                    if heads > 1 and split == "by head" and axis == -1:
                        yield f"{text}, heads joined without moving the axis", y.reshape(shape)


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


def _weights(scores: np.ndarray, mask: np.ndarray | None, axis: int) -> np.ndarray:
    if mask is not None:
        scores = np.where(mask, scores, -1e30)
    power = np.exp(scores - scores.max(axis, keepdims=True))
    return power / power.sum(axis, keepdims=True)
