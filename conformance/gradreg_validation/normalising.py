"""An array normalised in the ways that ports mistake for one another."""

import itertools

import numpy as np

from gradreg_validation.known import Candidates, Known

__all__ = ["normalised"]

_EPS = (1e-5, 0.0, 1e-12, 1e-8, 1e-6, 1e-3, 1e-2)


def normalised(one: Known) -> Candidates:
    """Over one axis or all but the first: centred or not, divided by its deviation, root mean square or norm."""
    x = one.array
    axes: list[tuple[int, ...]] = [(axis,) for axis in range(x.ndim - 1, -1, -1)]
    axes += [tuple(range(1, x.ndim)), tuple(range(2, x.ndim))] if x.ndim > 2 else []
    for over in dict.fromkeys(axes):
        where = "over the last axis" if over == (x.ndim - 1,) else f"over the axes {over}"
        centred = x - x.mean(over, keepdims=True)
        size = int(np.prod([x.shape[axis] for axis in over]))
        square = (centred**2).sum(over, keepdims=True)
        raw = (x**2).sum(over, keepdims=True)
        spreads = {"deviation": square / size, "root mean square": raw / size, "norm": raw}
        if size > 1:
            spreads["deviation with n - 1"] = square / (size - 1)
        yield f"{one.label} minus its mean {where}", centred
        for (name, spread), eps in itertools.product(spreads.items(), _EPS):
            for y, centring in ((centred, " centred and"), (x, "")):
                if centring and name in ("root mean square", "norm"):
                    continue
                words = f"{one.label}{centring} divided by its {name} {where}"
                yield f"{words}, eps={eps:g}", y / np.sqrt(spread + eps)
                if eps:
                    yield f"{words}, eps={eps:g} outside of the root", y / (np.sqrt(spread) + eps)
