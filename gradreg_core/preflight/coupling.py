"""Detects coupled samples, whose outputs depend on the inputs of others, by pulling one sample back.

Batch statistics, the edges of a graph, a leading time axis and losses over pairs all show in the same way, so this
module knows nothing of layers or their names.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradreg_core.backend import Array, Backend, Pair, Pullback
from gradreg_core.errors import BatchNormError
from gradreg_core.forward import Forward
from gradreg_core.outputs import OUTPUTS

__all__ = ["Coupling", "axis_of_samples", "coupling", "coupling_of_losses", "describe", "refuse_coupling"]

_NEGLIGIBLE = 1e-6
"""The least share of a sample's own gradient that counts as reaching another. Uncoupled samples have exactly 0."""


@dataclass(frozen=True)
class Coupling:
    """The result of pulling back single samples."""

    batch: int
    probed: tuple[int, ...]
    """The samples whose outputs were pulled back."""
    reached: tuple[tuple[int, ...], ...]
    """For each of them, the other samples that it reaches."""
    strongest: tuple[int, int, float]
    """(sample, other, how strongly the outputs of the one depend on the other, relative to itself)."""

    @property
    def is_total(self) -> bool:
        """Whether every probed sample reaches all others."""
        return all(len(others) == self.batch - 1 for others in self.reached)

    @property
    def is_causal(self) -> bool:
        """Whether samples reach all samples before them, and none after."""
        return all(others == tuple(range(sample)) for sample, others in zip(self.probed, self.reached, strict=True))


def coupling(ops: Backend, value: Array, pullback: Pullback, most: int = 3) -> Coupling | None:
    """Which samples reach which others between a place of the network and an earlier one.

    One backward pass for each probed sample.

    Args:
        ops: the backend.
        value: the value of the later place, (B, ...), such as the outputs.
        pullback: from the later place to the earlier one.
        most: samples to probe: the first, the last and the middle one. 1 is enough to find whether batch statistics
            are in use.

    Returns:
        The coupling, or None if each probed sample reaches itself alone (or one of the places has no batch axis).
    """
    batch = ops.shape(value)[0] if ops.shape(value) else 1
    random = np.random.default_rng(0).standard_normal(ops.shape(value)).astype(np.float32)
    return _coupling(ops, batch, random, lambda w: pullback(ops.astype(ops.asarray(w, value), ops.dtype(value))), most)


def coupling_of_losses(forward: Forward) -> Coupling | None:
    """Which losses depend on the outputs of which other samples."""
    ops, batch = forward.call.ops, forward.layout.canonical[0]
    ones, output = np.ones((batch, 1, 1), np.float32), OUTPUTS["loss"]

    def pull(w: np.ndarray) -> Array:
        return output.pull(forward, ops.astype(ops.asarray(w, forward.logits), ops.dtype(forward.logits)))

    return _coupling(ops, batch, ones, pull, 3)


def _coupling(ops: Backend, batch: int, cotangent: np.ndarray, pull: Pullback, most: int) -> Coupling | None:
    probed = tuple(dict.fromkeys((0, batch - 1, batch // 2)))[:most]
    reached, strongest = [], (0, 0, 0.0)
    for sample in probed if batch > 1 else ():
        alone = np.zeros_like(cotangent)
        alone[sample] = cotangent[sample]
        gradient = ops.stop_gradient(pull(alone))
        if ops.shape(gradient)[:1] != (batch,):
            return None
        strengths = _lengths(ops, gradient)
        if not all(map(math.isfinite, strengths)):
            return None  # found by its own name
        own = strengths[sample] or max(strengths)
        shares = [strength / own if own else 0.0 for strength in strengths]
        reached.append(tuple(other for other in range(batch) if other != sample and shares[other] > _NEGLIGIBLE))
        for other in reached[-1]:
            if shares[other] > strongest[2]:
                strongest = sample, other, shares[other]
    order = sorted(range(len(reached)), key=lambda index: probed[index])
    if not any(reached):
        return None
    ordered = tuple(probed[index] for index in order), tuple(reached[index] for index in order)
    return Coupling(batch, *ordered, strongest)


def _lengths(ops: Backend, gradient: Array) -> list[float]:
    """The L2 norm of each sample's part."""
    flat = ops.reshape(ops.astype(gradient, "float32"), (ops.shape(gradient)[0], -1))
    largest = ops.sum(flat * flat, 1)
    return [math.sqrt(max(float(square), 0.0)) for square in largest]


def refuse_coupling(call: str, passes: Sequence[Forward]) -> None:
    """Refuse coupled samples, whatever couples them, if reading values is free. Two backward passes per pair.

    Raises:
        BatchNormError: the outputs of one sample depend on the input of another.
    """
    for forward in passes:
        ops = forward.call.ops
        for (of, at), pullback in forward.pullbacks.items():
            value = forward.outputs if of is None else forward.values[of]
            if ops.values_if_free(value) is None:
                return
            seen = coupling(ops, value, pullback, most=2)
            if seen is not None:
                problem, remedy = describe(seen, (of, at), second_axis=False)
                raise BatchNormError(f"{call}: {problem} {remedy} Or pass batch_norm='allow' if that is intended.")


def axis_of_samples(ops: Backend, value: Array, x_shape: Sequence[int], pullback: Pullback) -> bool:
    """Whether the second axis of x and of `value` behaves as a batch axis: along it nothing reaches anything else."""
    shape = ops.shape(value)
    if len(shape) < 3 or len(x_shape) < 3 or shape[1] != x_shape[1] or shape[1] < 2:
        return False
    random = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    random[:, 1:] = 0
    gradient = ops.stop_gradient(pullback(ops.astype(ops.asarray(random, value), ops.dtype(value))))
    strengths = _lengths(ops, ops.moveaxis(ops.reshape(gradient, tuple(x_shape)), 1, 0))
    return strengths[0] > 0 and all(strength <= _NEGLIGIBLE * strengths[0] for strength in strengths[1:])


def describe(seen: Coupling, pair: Pair, second_axis: bool) -> tuple[str, str]:
    """(problem, remedy) of coupled samples."""
    of, at = pair
    later = "the outputs" if of is None else f"of={of!r}"
    earlier = "the input" if at is None else f"at={at!r}"
    sample, other, share = seen.strongest
    counts = ", ".join(
        f"sample {index} reaches {len(others)} of {seen.batch - 1} others"
        for index, others in zip(seen.probed, seen.reached, strict=True)
    )
    if second_axis:
        cause = (
            "The second axis behaves as a batch axis, so the first is probably time: (T, B, ...) where gradreg takes "
            "(B, T, ...)."
        )
        remedy = (
            "Pass x with the samples first, and swap the two axes inside: a function that swaps them, calls the model "
            "and swaps the axes of the outputs back."
        )
    elif seen.is_total:
        cause = (
            "All depend on all, as through batch normalisation in training mode, a softmax or a standard deviation "
            "over the batch, or attention between samples."
        )
        remedy = "Use GroupNorm or LayerNorm, or running averages, unless that is intended."
    elif seen.is_causal:
        cause = "Each depends on those before it, as if the first axis is time, or through a cumulative sum."
        remedy = "Put the samples first, and time after them."
    else:
        cause = "Some depend on some, as along the edges of a graph, or in a window that runs over the batch."
        remedy = (
            "Make the whole graph one sample, lambda x: model(x[0])[None] at x[None] with y[None], unless sums over "
            "neighbours are meant."
        )
    problem = (
        f"an output depends on other samples of the batch, between {later} and {earlier}: {counts}, and sample "
        f"{sample} depends on sample {other} {share:.0%} as strongly as on itself. {cause} The penalty "
        f"is then of J^T w of the stacked rows of all samples, and not of each sample's own block of J."
    )
    return problem, remedy
