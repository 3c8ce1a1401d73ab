"""Mixtures of experts: sums of a model's experts with the weights that ports mistake for one another."""

import itertools
from collections.abc import Iterator

import numpy as np

from gradreg_validation.forms import FORMS
from gradreg_validation.known import INNER, Candidates, Facts, Known

__all__ = ["mixtures"]

_MOST = 16
"""The largest number of experts."""
_FEWEST_SAMPLES = 4
_BASES = 4
"""The arrays beside which the sum is tried."""


def mixtures(target: np.ndarray, facts: Facts) -> Candidates:
    """Sums of experts that were computed one after the other for all samples, and such a sum beside one array."""
    if target.ndim < 2 or len(target) < _FEWEST_SAMPLES:
        return
    layers = [one for one in facts.layers if one.array.dtype.kind == "f" and not one.label.startswith("the input of ")]
    alike: list[Known] = []
    for one in layers:
        if one.array.shape == target.shape and not any(np.array_equal(one.array, other.array) for other in alike):
            alike.append(one)
    inputs = [one for one in facts.all() if one.array.shape == target.shape]
    same = [*(one for one in inputs if one.label.startswith("the input")), *alike]
    gates = [one for one in layers if one.array.shape[:-1] == target.shape[:-1] and 2 <= one.array.shape[-1] <= _MOST]
    for gate in reversed(gates):
        count = gate.array.shape[-1]
        others = [one for one in alike if one is not gate]
        weights = list(_weights(gate))
        for start, form in itertools.product(range(len(others) - count, -1, -1), ("the identity", *INNER)):
            experts = others[start : start + count]
            values = np.stack([FORMS[form](one.array) for one in experts], -1)
            prefix = "" if form == "the identity" else f"{form} of "
            bases = [one for one in same if all(one is not expert for expert in experts)][:_BASES]
            who = f"the sum of {prefix}{experts[0].label} to {experts[-1].label}"
            for words, factors in weights:
                total = (values * factors[..., None, :]).sum(-1)
                yield f"{who}, weighted by {words}", total
                for base in bases:
                    yield f"{base.label} plus {who}, weighted by {words}", base.array + total


def _weights(gate: Known) -> Iterator[tuple[str, np.ndarray]]:
    """(words, weights of the experts) from the logits of a router."""
    count = gate.array.shape[-1]
    ranks = np.argsort(np.argsort(-gate.array, -1, kind="stable"), -1)
    for name in ("softmax over the last axis", "sigmoid", "the identity"):
        whole = FORMS[name](gate.array)
        label = gate.label if name == "the identity" else f"{name.split()[0]} of {gate.label}"
        yield f"{label}, all of them", whole
        if name == "sigmoid":
            yield f"{label}, all of them, divided by their sum", whole / whole.sum(-1, keepdims=True)
        for k in range(1, count):
            top = np.where(ranks < k, whole, 0.0)
            yield f"{label}, the top {k} as they are", top
            if k > 1 and name != "the identity":
                yield f"{label}, the top {k} divided by their sum", top / top.sum(-1, keepdims=True)
            if name == "the identity":
                yield f"1/{k} for the top {k} of {label}", np.where(ranks < k, 1.0 / k, 0.0)
