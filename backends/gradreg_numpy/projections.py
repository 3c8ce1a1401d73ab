"""The directions W of every projection, in plain NumPy, from the formulas in the projections' docstrings."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from gradreg_core.errors import InputError
from gradreg_core.projections import (
    Projection,
    direction,
    exact,
    fisher,
    gaussian,
    onehot,
    ones,
    orthonormal,
    rademacher,
    random_onehot,
    sphere,
    top_k,
    top_singular,
)
from gradreg_core.random import STREAM_DIRECTION, STREAM_START, Draws
from gradreg_numpy.batch import Batch
from gradreg_numpy.draws import draws
from gradreg_numpy.functions import Array, rule_for
from gradreg_numpy.layout import View, labels_of
from gradreg_numpy.outputs import probabilities
from gradreg_numpy.positions import shares

__all__ = ["ROWS", "Setting", "directions", "pull", "push", "unit"]


def pull(J: Array, W: Array) -> Array:
    """Rows of W (k, B, m) times the Jacobian, (k, B, d): J_i^T w_i, or sum_j F_ji^T w_j if samples are coupled."""
    return np.asarray(np.einsum("kim,imd->kid" if J.ndim == 3 else "kim,imjd->kjd", W, J))


def push(J: Array, v: Array) -> Array:
    """The Jacobian times input directions v (B, d), (B, m)."""
    return np.asarray(np.einsum("imd,id->im" if J.ndim == 3 else "imjd,jd->im", J, v))


@dataclass(frozen=True)
class Setting:
    """The inputs of a projection's rule."""

    batch: Batch
    view: View
    """The view of the outputs, or of the input on the input side."""
    z: Array
    """The logits, (B, positions, classes)."""
    J: Array
    """The Jacobian of the projected output, (B, q, d) or (B, q, B, d)."""
    draws: Draws
    size: int
    """The number of components of a direction: q of the projected output, or d of the input."""
    kept: Array
    """1 for each component, but 0 at positions of weight 0; (B, size)."""


def unit(rows: Array) -> Array:
    """Rows divided by their length over the last axis; a row of zeros stays zero."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def _normals(setting: Setting, count: int, stream: int = STREAM_DIRECTION) -> Array:
    drawn, function = setting.draws, setting.batch.model.normals
    array = _gaussians(drawn.seed, drawn.step, drawn.sample_ids.tobytes(), stream, count, setting.size)
    return array if function is None else function(array)


@lru_cache(maxsize=256)
def _gaussians(seed: int, step: int, sample_ids: bytes, stream: int, count: int, size: int) -> Array:
    """The same array, read-only, for each perturbed number of a complex step: none of them changes the draws."""
    own = draws(seed, step, np.frombuffer(sample_ids, np.int32))
    array = np.array(own.gaussians(stream, range(count), size), np.float64)
    array.setflags(write=False)
    return array


def _basis(indices: Array, size: int) -> Array:
    return np.eye(size)[indices]


def _signs(setting: Setting, count: int) -> Array:
    return np.asarray(setting.draws.signs(STREAM_DIRECTION, range(count), setting.size), dtype=np.float64)


def _picks(setting: Setting, count: int) -> Array:
    return setting.draws.integers(STREAM_DIRECTION, range(count), setting.size)


def _scale(projection: sphere | orthonormal | random_onehot, setting: Setting) -> Array:
    counted = np.maximum(setting.kept.sum(axis=1), 1.0)
    return np.sqrt((counted if projection.unbiased else np.ones_like(counted)) / projection.k)[None, :, None]


def _orthonormal(projection: orthonormal, setting: Setting) -> Array:
    """Gram-Schmidt of the normals of each sample: the Q of the QR decomposition whose R has a positive diagonal.

    The signs matter if samples are coupled, because their rows then add.
    """
    k, size = projection.k, setting.size
    if k > size:
        raise InputError(f"orthonormal(k={k}): there are only {size} orthonormal directions of {size} outputs.")
    q, r = np.linalg.qr(np.moveaxis(_normals(setting, k) * setting.kept, 0, -1))
    signs = np.sign(np.diagonal(r, axis1=-2, axis2=-1))
    return np.moveaxis(q * signs[:, None, :], -1, 0) * _scale(projection, setting)


def _random_onehot(projection: random_onehot, setting: Setting) -> Array:
    """Pick one of all components by the integers or, if some are left out, one of the others by the uniforms."""
    if setting.kept.all():
        return _basis(_picks(setting, projection.k), setting.size) * _scale(projection, setting)
    uniforms = np.asarray(setting.draws.uniforms(STREAM_DIRECTION, range(projection.k), 1), dtype=np.float64)[..., 0]
    rows = np.zeros((projection.k, len(setting.z), setting.size))
    for sample in range(len(setting.z)):
        counted = np.flatnonzero(setting.kept[sample])
        for row in range(projection.k) if len(counted) else ():
            drawn = uniforms[row, sample if uniforms.shape[1] > 1 else 0]
            rows[row, sample, counted[int(drawn * len(counted))]] = 1.0
    return rows * _scale(projection, setting)


def _onehot(projection: onehot, setting: Setting) -> Array:
    batch, view = setting.batch, setting.view
    labels = labels_of(batch.call, batch.y, view, len(setting.z), "the projection onehot()")
    if not labels.hard:
        raise InputError(f"{batch.call}: onehot() needs integer class labels, got soft labels (floating point).")
    rows = labels.distribution if view.classes > 1 else np.ones_like(labels.distribution)
    return rows.reshape(1, -1, setting.size)


def _top_k(projection: top_k, setting: Setting) -> Array:
    call, view, k = setting.batch.call, setting.view, projection.k
    view.require_classes(call, f"the projection top_k(k={k})")
    if k > view.classes:
        raise InputError(f"{call}: top_k(k={k}): the output has only {view.classes} classes.")
    best = np.argsort(-setting.z.real, axis=-1, kind="stable")[..., :k]
    return np.asarray(_basis(best, view.classes).sum(axis=-2)).reshape(1, -1, setting.size)


def _fisher(projection: fisher, setting: Setting) -> Array:
    """(f - e_c) / positions; c is the number of classes but the last whose cumulative probability is at most u."""
    setting.view.require_classes(setting.batch.call, "the projection fisher()")
    f, constant = probabilities(setting.z), probabilities(setting.z.real)
    uniform = np.asarray(setting.draws.uniforms(STREAM_DIRECTION, (0,), f.shape[1]), dtype=np.float64)[0, :, :, None]
    if f.shape[2] == 1:
        drawn = (uniform < constant).astype(np.float64)
    else:
        passed = np.cumsum(constant, axis=-1)[:, :, :-1] <= uniform
        drawn = _basis(passed.sum(axis=-1), f.shape[2])
    share = shares(setting.batch.position_weight, f.shape[1])[:, :, None]
    return np.asarray((f - drawn) * share).reshape(1, -1, setting.size)


def _top_singular(projection: top_singular, setting: Setting) -> Array:
    """Power iteration u <- J J^T u / ||J J^T u|| from a random start, on the real part of J."""
    J = setting.J.real
    u = unit(np.broadcast_to(_normals(setting, 1, STREAM_START)[0], (len(setting.z), setting.size)))
    for _ in range(projection.iterations):
        u = unit(push(J, pull(J, u[None])[0]))
    return u[None]


def _direction(projection: direction, setting: Setting) -> Array:
    if projection.v is None:
        return _directions_of_the_call(setting)
    rows = np.atleast_2d(np.asarray(projection.v, dtype=np.float64))
    size = setting.size
    if rows.shape[1] != size:
        raise InputError(f"direction: v has {rows.shape[1]} components, but the model has {size} outputs per sample.")
    return rows[:, None, :]


def _directions_of_the_call(setting: Setting) -> Array:
    """`directions=` as (k, B or 1, m): shape (m,), (B, m) or (k, B, m), or the outputs' own axes for m."""
    directions: Any = setting.batch.directions
    if directions is None:
        raise InputError("direction(): no directions were given; pass directions= in the call, or v in direction(v).")
    array, view, batch = np.asarray(directions, dtype=np.float64), setting.view, len(setting.z)
    for own, order in ((view.own, view.order), ((view.size,), np.arange(view.size))):
        rank = array.ndim - len(own)
        leading = array.shape[: max(rank, 0)]
        fits = leading in ((), (batch,)) or (rank == 2 and leading[1] == batch)
        if rank >= 0 and array.shape[rank:] == own and fits:
            full = (1,) * (2 - rank) + leading
            return array.reshape(*full, view.size)[..., order]
    raise InputError(
        f"directions= must have shape ({view.size},), ({batch}, {view.size}) or (k, {batch}, {view.size}) for {batch} "
        f"samples with {view.size} outputs each, got {array.shape}."
    )


ROWS: dict[type[Projection], Callable[[Any, Setting], Array]] = {
    exact: lambda projection, setting: np.eye(setting.size)[:, None, :],
    gaussian: lambda projection, setting: _normals(setting, projection.k) / math.sqrt(projection.k),
    rademacher: lambda projection, setting: _signs(setting, projection.k) / math.sqrt(projection.k),
    sphere: lambda projection, setting: (
        unit(_normals(setting, projection.k) * setting.kept) * _scale(projection, setting)
    ),
    orthonormal: _orthonormal,
    random_onehot: _random_onehot,
    onehot: _onehot,
    ones: lambda projection, setting: np.ones((1, 1, setting.size)),
    top_k: _top_k,
    fisher: _fisher,
    top_singular: _top_singular,
    direction: _direction,
}
"""The rows of W by class of projection, in any shape that broadcasts to (k, B, q)."""


def directions(projection: Projection, setting: Setting) -> Array:
    """W of shape (k, B, q), rows in the space of the projected output.

    Raises:
        InputError: the projection needs labels or classes that are missing, or asks for too many rows.
        UnsupportedError: the projection has no rule.
    """
    rows = rule_for(projection, ROWS)(projection, setting)
    return np.broadcast_to(rows, (len(rows), len(setting.z), setting.size))
