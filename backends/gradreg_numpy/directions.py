"""The directions W of every projection, in plain NumPy, from the formulas in the projections' docstrings."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradreg_core.errors import InputError, UnsupportedError
from gradreg_core.projections import (
    Projection,
    direction,
    exact,
    fisher,
    gaussian,
    onehot,
    orthonormal,
    rademacher,
    random_onehot,
    sphere,
    top_k,
    top_singular,
)
from gradreg_core.random import STREAM_DIRECTION, STREAM_START, Draws
from gradreg_numpy.functions import Array
from gradreg_numpy.outputs import View, labels_of, probabilities

__all__ = ["Setting", "directions", "pull", "push"]


def pull(J: Array, W: Array) -> Array:
    """Rows of W (k, B, m) times the Jacobian, (k, B, d): J_i^T w_i, or sum_j F_ji^T w_j where samples are coupled."""
    return np.asarray(np.einsum("kim,imd->kid" if J.ndim == 3 else "kim,imjd->kjd", W, J))


def push(J: Array, v: Array) -> Array:
    """The Jacobian times input directions v (B, d), (B, m)."""
    return np.asarray(np.einsum("imd,id->im" if J.ndim == 3 else "imjd,jd->im", J, v))


@dataclass(frozen=True)
class Setting:
    """What a projection may look at."""

    call: str
    view: View
    z: Array
    """Logits, (B, positions, classes)."""
    J: Array
    """The Jacobian of the projected output, (B, q, d) or (B, q, B, d)."""
    y: Any
    draws: Draws
    size: int
    """The number of components of a direction: q of the projected output, or d of the input."""
    given: Any = None

    @property
    def batch(self) -> int:
        """B."""
        return len(self.z)


def _unit(rows: Array) -> Array:
    """Rows divided by their length over the last axis; a row of zeros stays zero."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def _normals(setting: Setting, count: int, stream: int = STREAM_DIRECTION) -> Array:
    drawn = setting.draws.gaussians(stream, range(count), setting.size)
    return np.asarray(drawn, dtype=np.float64)


def _haar(normals: Array) -> Array:
    """Gram-Schmidt of the rows over axis 0, for each sample: the Q of Q R where R has a positive diagonal.

    The signs matter where samples are coupled, so that their rows add.
    """
    q, r = np.linalg.qr(np.moveaxis(normals, 0, -1))
    signs = np.sign(np.diagonal(r, axis1=-2, axis2=-1))
    return np.moveaxis(q * signs[:, None, :], -1, 0)


def _basis(indices: Array, size: int) -> Array:
    return np.eye(size)[indices]


def _fisher(setting: Setting) -> Array:
    """(f - e_c) / positions; c is the number of classes but the last whose cumulative probability is at most u."""
    setting.view.require_classes(setting.call, "the projection fisher()")
    f, constant = probabilities(setting.z), probabilities(setting.z.real)
    uniform = np.asarray(setting.draws.uniforms(STREAM_DIRECTION, (0,), f.shape[1]), dtype=np.float64)[0, :, :, None]
    if f.shape[2] == 1:
        drawn = (uniform < constant).astype(np.float64)
    else:
        passed = np.cumsum(constant, axis=-1)[:, :, :-1] <= uniform
        drawn = _basis(passed.sum(axis=-1), f.shape[2])
    return np.asarray((f - drawn) / f.shape[1])


def _onehot(setting: Setting) -> Array:
    labels = labels_of(setting.call, setting.y, setting.view, setting.batch, "the projection onehot()")
    if not labels.hard:
        raise InputError(f"{setting.call}: onehot() needs integer class labels, got soft labels (floating point).")
    return labels.distribution if setting.view.classes > 1 else np.ones_like(labels.distribution)


def _top_k(setting: Setting, k: int) -> Array:
    setting.view.require_classes(setting.call, f"the projection top_k(k={k})")
    classes = setting.view.classes
    if k > classes:
        raise InputError(f"{setting.call}: top_k(k={k}): the output has only {classes} classes.")
    best = np.argsort(-setting.z.real, axis=-1, kind="stable")[..., :k]
    return np.asarray(_basis(best, classes).sum(axis=-2))


def _top_singular(setting: Setting, iterations: int) -> Array:
    """Power iteration u <- J J^T u / ||J J^T u|| from a random start, on the real part of J."""
    J = setting.J.real
    u = _unit(np.broadcast_to(_normals(setting, 1, STREAM_START)[0], (setting.batch, setting.size)))
    for _ in range(iterations):
        u = _unit(push(J, pull(J, u[None])[0]))
    return u


def _given(setting: Setting) -> Array:
    """`directions=` of the call as (k, B or 1, m): shape (m,), (B, m) or (k, B, m), or the outputs' own axes for m."""
    if setting.given is None:
        raise InputError("direction(): no directions came; pass directions= in the call, or v in direction(v).")
    given, view = np.asarray(setting.given, dtype=np.float64), setting.view
    for own, order in ((view.own, view.order), ((view.size,), np.arange(view.size))):
        rank = given.ndim - len(own)
        leading = given.shape[: max(rank, 0)]
        fits = leading in ((), (setting.batch,)) or (rank == 2 and leading[1] == setting.batch)
        if rank >= 0 and given.shape[rank:] == own and fits:
            full = (1,) * (2 - rank) + leading
            return given.reshape(*full, view.size)[..., order]
    raise InputError(
        f"directions= must have shape ({view.size},), ({setting.batch}, {view.size}) or (k, {setting.batch}, "
        f"{view.size}) for {setting.batch} samples with {view.size} outputs each, got {given.shape}."
    )


def _fixed(v: Any, size: int) -> Array:
    rows = np.atleast_2d(np.asarray(v, dtype=np.float64))
    if rows.shape[1] != size:
        raise InputError(f"direction: v has {rows.shape[1]} components, but the model has {size} outputs per sample.")
    return rows[:, None, :]


def _rows(projection: Projection, setting: Setting) -> Array:
    """The rows in any shape that broadcasts to (k, B, q) once positions and classes are one axis."""
    size = setting.size
    match projection:
        case exact():
            return np.eye(size)[:, None, :]
        case gaussian(k=k):
            return _normals(setting, k) / math.sqrt(k)
        case rademacher(k=k):
            return np.asarray(setting.draws.signs(STREAM_DIRECTION, range(k), size), dtype=np.float64) / math.sqrt(k)
        case sphere(k=k, unbiased=unbiased):
            return _unit(_normals(setting, k)) * math.sqrt((size if unbiased else 1) / k)
        case orthonormal(k=k, unbiased=unbiased):
            if k > size:
                raise InputError(f"orthonormal(k={k}): there are only {size} orthonormal directions of {size} outputs.")
            return _haar(_normals(setting, k)) * math.sqrt((size if unbiased else 1) / k)
        case random_onehot(k=k, unbiased=unbiased):
            picks = setting.draws.integers(STREAM_DIRECTION, range(k), size)
            return _basis(picks, size) * math.sqrt((size if unbiased else 1) / k)
        case onehot():
            return _onehot(setting).reshape(1, setting.batch, size)
        case top_k(k=k):
            return _top_k(setting, k).reshape(1, setting.batch, size)
        case fisher():
            return _fisher(setting).reshape(1, setting.batch, size)
        case top_singular(iterations=iterations):
            return _top_singular(setting, iterations)[None]
        case direction(v=None):
            return _given(setting)
        case direction(v=v):
            return _fixed(v, size)
    raise UnsupportedError(f"{setting.call}: no directions for the projection {projection!r}.")


def directions(projection: Projection, setting: Setting) -> Array:
    """W of shape (k, B, q), rows in the space of the projected output.

    Raises:
        InputError: the projection needs labels or classes that are not there, or asks for too many rows.
        UnsupportedError: a projection that is none of gradreg_core's.
    """
    rows = _rows(projection, setting)
    return np.broadcast_to(rows, (len(rows), setting.batch, setting.size))
