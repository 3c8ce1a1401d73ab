"""Two dynamical systems, their flow maps and the flow maps' Jacobians, by the variational equation.

du/dt = f(u) and dV/dt = f'(u) V from V = I are integrated together by the classical Runge-Kutta method; the flow map
over a time is the last u, its Jacobian the last V.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["SYSTEMS", "System", "flow"]

Array = npt.NDArray[np.float64]
_STEP = 0.005


class System(NamedTuple):
    """f of du/dt = f(u), for states (N, d)."""

    field: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    """The derivative f', (N, d, d)."""
    states: Callable[[int, Any], Array]
    """Draws this many states with a generator."""
    time: float
    """The time of the flow map."""


def flow(system: System, states: Array, time: float | None = None) -> tuple[Array, Array]:
    """The states (N, d) after a time, and their Jacobians (N, d, d) with respect to the initial states."""
    steps = max(1, round((system.time if time is None else time) / _STEP))
    h = (system.time if time is None else time) / steps
    u, V = states, np.broadcast_to(np.eye(states.shape[1]), (*states.shape, states.shape[1]))

    def slopes(u: Array, V: Array) -> tuple[Array, Array]:
        return system.field(u), system.derivative(u) @ V

    for _ in range(steps):
        a, A = slopes(u, V)
        b, B = slopes(u + h / 2 * a, V + h / 2 * A)
        c, C = slopes(u + h / 2 * b, V + h / 2 * B)
        d, D = slopes(u + h * c, V + h * C)
        u, V = u + h / 6 * (a + 2 * b + 2 * c + d), V + h / 6 * (A + 2 * B + 2 * C + D)
    return u, V


def _lorenz(u: Array) -> Array:
    x, y, z = u.T
    return np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], 1)


def _lorenz_derivative(u: Array) -> Array:
    x, y, z = u.T
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows = [[-10 * one, 10 * one, zero], [28 - z, -one, -x], [y, x, -8 / 3 * one]]
    return np.stack([np.stack(row, 1) for row in rows], 1)


def _lorenz_states(count: int, generator: np.random.Generator) -> Array:
    """States on the attractor: normal starts after 20 units of time."""
    start = generator.normal(size=(count, 3)) * 10 + [0, 0, 25]
    for _ in range(4000):
        start = _advance(_lorenz, start)
    return start


def _advance(field: Callable[[Array], Array], u: Array) -> Array:
    a = field(u)
    b = field(u + _STEP / 2 * a)
    c = field(u + _STEP / 2 * b)
    return u + _STEP / 6 * (a + 2 * b + 2 * c + field(u + _STEP * c))


def _kepler(u: Array) -> Array:
    q, p = u[:, :2], u[:, 2:]
    return np.concatenate([p, -q / np.linalg.norm(q, axis=1, keepdims=True) ** 3], 1)


def _kepler_derivative(u: Array) -> Array:
    q = u[:, :2]
    r = np.linalg.norm(q, axis=1)[:, None, None]
    pull = 3 * q[:, :, None] * q[:, None, :] / r**5 - np.eye(2) / r**3
    whole = np.zeros((len(u), 4, 4))
    whole[:, :2, 2:], whole[:, 2:, :2] = np.eye(2), pull
    return whole


def _kepler_states(count: int, generator: np.random.Generator) -> Array:
    """States on ellipses of semi-axis 0.8 to 1.2 and eccentricity up to 0.4, at any anomaly and orientation."""
    axis, e = generator.uniform(0.8, 1.2, count), generator.uniform(0, 0.4, count)
    anomaly, turn = generator.uniform(0, 2 * np.pi, (2, count))
    parameter = axis * (1 - e**2)
    r, speed = parameter / (1 + e * np.cos(anomaly)), 1 / np.sqrt(parameter)
    q = np.stack([r * np.cos(anomaly), r * np.sin(anomaly)], 1)
    p = np.stack([-speed * np.sin(anomaly), speed * (e + np.cos(anomaly))], 1)
    rotation = np.stack([np.stack([np.cos(turn), -np.sin(turn)], 1), np.stack([np.sin(turn), np.cos(turn)], 1)], 1)
    return np.concatenate([(rotation @ part[..., None])[..., 0] for part in (q, p)], 1)


SYSTEMS = {
    "Lorenz 63": System(_lorenz, _lorenz_derivative, _lorenz_states, 0.2),
    "two bodies": System(_kepler, _kepler_derivative, _kepler_states, 1.0),
}
