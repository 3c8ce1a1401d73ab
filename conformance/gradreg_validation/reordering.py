"""The elements of an array in other places: axes permuted, channels shuffled, moved, padded or cut off."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradreg_validation.known import Candidates, Known

__all__ = ["moved", "padded", "reordered", "shuffled"]


def moved(one: Known) -> Candidates:
    """Shifted and reversed along an axis, and its blocks exchanged; of the array's own shape."""
    array = one.array
    for axis, count in itertools.product(range(1, array.ndim), (1, 2)):
        if array.ndim > 2:
            yield f"{one.label} shifted by {count} along axis {axis}", _shifted(array, axis, count)
    for axis in range(1, array.ndim):
        yield f"{one.label} reversed along axis {axis}", np.flip(array, axis)
    for axis, blocks in itertools.product(range(1, array.ndim), (2, 3, 4)):
        if array.shape[axis] % blocks == 0 and array.shape[axis] > blocks:
            parts = np.split(array, blocks, axis)
            for order in list(itertools.permutations(range(blocks)))[1:]:
                words = f"{one.label} with its {blocks} blocks along axis {axis} in the order {order}"
                yield words, np.concatenate([parts[i] for i in order], axis)


def _shifted(array: np.ndarray, axis: int, count: int) -> np.ndarray:
    turned = np.roll(array, count, axis)
    index: list[Any] = [slice(None)] * array.ndim
    index[axis] = slice(0, count)
    turned[tuple(index)] = 0
    return turned


def reordered(one: Known, shape: tuple[int, ...]) -> Candidates:
    """Reshaped to `shape`, with its axes permuted before."""
    axes = range(1, one.array.ndim)
    for order in itertools.permutations(axes) if one.array.ndim <= 5 else ():
        whole = (0, *order)
        plain = whole == tuple(range(one.array.ndim))
        if plain and one.array.shape == shape:
            continue
        words = "flattened" if len(shape) == 2 else "reshaped"
        how = "" if plain else f" in another order, with its axes permuted to {whole} before"
        yield f"{one.label} {words}{how}", np.transpose(one.array, whole).reshape(shape)
    yield from shuffled(one, shape)


def shuffled(one: Known, shape: tuple[int, ...]) -> Candidates:
    """Channels shuffled between groups, and channels moved into space, as a pixel shuffle does, or back."""
    array = one.array
    if array.shape == shape:
        for axis in range(1, array.ndim):
            size = array.shape[axis]
            for groups in range(2, size // 2 + 1):
                if size % groups == 0:
                    split = array.reshape(*array.shape[:axis], groups, size // groups, *array.shape[axis + 1 :])
                    words = f"{one.label} with axis {axis} shuffled: {groups} groups, their members interleaved"
                    yield words, np.swapaxes(split, axis, axis + 1).reshape(shape)
    elif array.ndim == len(shape) == 4:
        for axis in (1, 3):
            yield from _pixels(one, shape, axis)


def _pixels(one: Known, shape: tuple[int, ...], axis: int) -> Candidates:
    """Depth to space, with the channels at `axis`."""
    x = np.moveaxis(one.array, axis, 1)
    batch, channels, height, width = x.shape
    wanted = tuple(np.moveaxis(np.empty(shape, bool), axis, 1).shape)
    block = wanted[2] // height if height and wanted[2] % height == 0 else 0
    if block < 2 or wanted != (batch, channels // block**2, height * block, width * block):
        return
    for words, split, order in (
        ("channels before the block, as PyTorch's pixel shuffle", (-1, block, block), (0, 1, 4, 2, 5, 3)),
        ("the block before the channels, as TensorFlow's depth_to_space", (block, block, -1), (0, 3, 4, 1, 5, 2)),
        ("the block exchanged", (-1, block, block), (0, 1, 4, 3, 5, 2)),
    ):
        y = x.reshape(batch, *split, height, width).transpose(order).reshape(wanted)
        yield f"{one.label} with channels moved into space, {words}", np.moveaxis(y, 1, axis)
    last = np.moveaxis(x, 1, -1).reshape(batch, *wanted[2:], wanted[1])
    yield (
        f"{one.label} reshaped channels last, no channels moved into space",
        np.moveaxis(np.moveaxis(last, -1, 1), 1, axis),
    )


def padded(one: Known, shape: tuple[int, ...]) -> Candidates:
    """With zeros or edges put on, or cut off."""
    array = one.array
    changes = [new - old for old, new in zip(array.shape, shape, strict=True)] if array.ndim == len(shape) else [1]
    if changes[0] or not any(changes) or any(abs(change) > 8 for change in changes):
        return
    for pads in itertools.islice(itertools.product(*(range(abs(change) + 1) for change in changes)), 100):
        before_after = [(before, abs(change) - before) for before, change in zip(pads, changes, strict=True)]
        put_on = [pair if change > 0 else (0, 0) for pair, change in zip(before_after, changes, strict=True)]
        index = tuple(
            slice(pair[0], size - pair[1]) if change < 0 else slice(None)
            for pair, change, size in zip(before_after, changes, array.shape, strict=True)
        )
        cut = array[index]
        said = _said(put_on, "padded") + _said(
            [pair if change < 0 else (0, 0) for pair, change in zip(before_after, changes, strict=True)], "cut"
        )
        if not any(map(any, put_on)):
            yield f"{one.label}{said}", cut
            continue
        yield f"{one.label}{said} with zeros", np.pad(cut, put_on)
        if cut.size:
            yield f"{one.label}{said} with repeated edges", np.pad(cut, put_on, "edge")
        if all(max(pair) < size for pair, size in zip(put_on, cut.shape, strict=True)):
            yield f"{one.label}{said} with reflection", np.pad(cut, put_on, "reflect")


def _said(pairs: Sequence[tuple[int, int]], verb: str) -> str:
    named = [f"{pair} along axis {axis}" for axis, pair in enumerate(pairs) if any(pair)]
    return f" {verb} by {' and '.join(named)}" if named else ""
