"""The compared forms: rules for the weight of the penalty's gradient in a step, and the settings to try."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

__all__ = ["CHECKED_RULES", "RULES", "Rule", "Setting", "State", "find_rule"]

Setting = tuple[float, ...]


@dataclass
class State:
    """The inputs of a rule: values of one step for R runs, shape (R,), constant under differentiation."""

    settings: list[Tensor]
    """The first setting of every run, the second, ..."""
    multiplier: Tensor
    """The multiplier of a dual ascent; it persists between steps."""
    n: Tensor
    """The batch's mean squared norm."""
    loss: Tensor
    start: Tensor
    """n of the first batch."""
    inputs: Tensor
    """The variance of the batch's inputs, a mean over their components."""
    plain: Tensor | None = None
    """n at the same step of an unregularized run, a moving average."""
    ratio: Tensor | None = None
    """||gradient of the loss|| / ||gradient of n||."""


Reference = Callable[[State], Tensor]


@dataclass(frozen=True)
class Rule:
    """One form."""

    name: str
    formula: str
    """The term added to the loss. w and t are the settings, n is the batch's mean squared norm, n_0 that of the first
    batch, n_u that of an unregularized run at the same step, s^2 the variance of the batch's inputs, M the loss."""
    weight: Callable[[State], Tensor]
    """The weight c of this step."""
    settings: Sequence[Setting]
    penalty: str = "spectreg"
    gradients: bool = False
    """Whether the rule needs `ratio`, hence two backward passes."""


def find_rule(name: str, penalty: str = "spectreg") -> Rule:
    """The rule with this name and penalty."""
    (rule,) = (rule for rule in RULES if (rule.name, rule.penalty) == (name, penalty))
    return rule


def _halves(first: int, last: int) -> list[float]:
    """10^first to 10^last, and 3 times each power but the last."""
    return [float(f"{digit}e{power}") for power in range(first, last) for digit in (1, 3)] + [float(f"1e{last}")]


def _single(values: Sequence[float]) -> list[Setting]:
    return [(value,) for value in values]


def _of_start(state: State) -> Tensor:
    return state.start


def _of_plain(state: State) -> Tensor:
    assert state.plain is not None
    return state.plain


def _of_inputs(state: State) -> Tensor:
    return 1 / state.inputs


def _plain(state: State) -> Tensor:
    return state.settings[0]


def _relative(reference: Reference) -> Callable[[State], Tensor]:
    """The penalty w n / n_ref."""
    return lambda state: state.settings[0] / reference(state)


def _log(reference: Reference) -> Callable[[State], Tensor]:
    """The penalty w log(n / n_ref + t), with a floor at t."""
    return lambda state: state.settings[0] / (state.n + state.settings[1] * reference(state))


def _log_hinge(reference: Reference) -> Callable[[State], Tensor]:
    """The penalty w max(0, log(n / (t n_ref)))."""
    return lambda state: torch.where(
        state.n > state.settings[1] * reference(state), state.settings[0] / state.n, 0 * state.n
    )


def _hinge(reference: Reference) -> Callable[[State], Tensor]:
    """The penalty w max(0, n / (t n_ref) - 1)^2."""

    def weight(state: State) -> Tensor:
        target = state.settings[1] * reference(state)
        return 2 * state.settings[0] * torch.relu(state.n / target - 1) / target

    return weight


_FIRST_MULTIPLIER, _ASCENT, _BOUNDS = 0.01, 0.03, (1e-4, 1e2)


def _target(reference: Reference) -> Callable[[State], Tensor]:
    """The target n = t n_ref, held by a multiplier that grows or shrinks by at most 3 % per step."""

    def weight(state: State) -> Tensor:
        target = state.settings[0] * reference(state)
        growth = torch.exp(_ASCENT * torch.log(state.n / target).clamp(-1, 1))
        state.multiplier = (state.multiplier * growth).clamp(*_BOUNDS)
        return _FIRST_MULTIPLIER * state.multiplier / target

    return weight


def _gradient_share(state: State) -> Tensor:
    assert state.ratio is not None
    return state.settings[0] * state.ratio


def _loss_share(state: State) -> Tensor:
    return state.settings[0] * state.loss / (state.n + 1 / state.inputs)


_LOG = list(product([3e-3, 1e-2, 3e-2, 0.1, 0.3], [1.0, 10.0]))
_SHARES = _single([0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9])

RULES = (
    Rule("none", "0", _plain, [(0.0,)]),
    Rule("plain", "w n", _plain, _single(_halves(-5, 1))),
    Rule("inputs", "w s^2 n", _relative(_of_inputs), _single(_halves(-4, -1))),
    Rule("start", "w n / n_0", _relative(_of_start), _single([10.0**power for power in range(-7, 0)])),
    Rule("log, start", "w log(n / n_0 + t)", _log(_of_start), _LOG),
    Rule("log, inputs", "w log(s^2 n + t)", _log(_of_inputs), _LOG),
    Rule(
        *("hinge, start", "w max(0, n / (t n_0) - 1)^2", _hinge(_of_start)),
        list(product([0.01, 0.1], [1.0, 10.0, 100.0])),
    ),
    Rule(
        *("hinge, unregularized", "w max(0, n / (t n_u) - 1)^2", _hinge(_of_plain)),
        list(product([0.01, 0.1], [0.03, 0.1, 0.3])),
    ),
    Rule(
        *("hinge, inputs", "w max(0, s^2 n / t - 1)^2", _hinge(_of_inputs)),
        list(product([0.01, 0.1], [1.0, 10.0, 100.0])),
    ),
    Rule(
        *("log hinge, inputs", "w max(0, log(s^2 n / t))", _log_hinge(_of_inputs)),
        list(product([0.03, 0.1, 0.3], [3.0, 10.0])),
    ),
    Rule("target, start", "multiplier (n - t n_0)", _target(_of_start), _single([1.0, 10.0, 100.0, 1000.0])),
    Rule("target, unregularized", "multiplier (n - t n_u)", _target(_of_plain), _single([0.01, 0.03, 0.1, 0.3])),
    Rule("target, inputs", "multiplier (s^2 n - t)", _target(_of_inputs), _single([1.0, 3.0, 10.0, 30.0, 100.0])),
    Rule("gradient share", "n, its gradient rescaled to w times the loss's", _gradient_share, _SHARES, gradients=True),
    Rule(
        *("loss share", "w M log(s^2 n + 1), M as a constant", _loss_share),
        _single([0.01, 0.03, 0.1, 0.3, 1.0, 3.0]),
    ),
    Rule("plain", "w n", _plain, _single(_halves(-2, 4)), "datagrad"),
)

CHECKED_RULES = (find_rule("none"), find_rule("plain"), find_rule("target, inputs"))
"""The rules that also run on the checks."""
