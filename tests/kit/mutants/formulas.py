"""Mutants that get the formula of a penalty wrong: outputs, labels, norms, phi, constants.

Left out, because they are equal: the square root taken and squared again, and a mean over the samples as a sum of
quotients (but for rounding, which is allowed).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch

from gradreg_core import engine, evaluation, layout, norms, projections
from gradreg_core.forward import Forward
from gradreg_core.presets import ConfidencePenalty, WeightDecay
from gradreg_torch.harness import TorchHarness
from mutants.mutant import mutant, output, patched, per_sample

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]


# --- outputs and labels -----------------------------------------------------------------------------------------------
def _classes(forward: Forward) -> int:
    return forward.layout.canonical[2]


def _is_of_two(forward: Forward) -> bool:
    """Whether two samples pass, without a target Jacobian, which has a check of its own."""
    return forward.layout.shape[0] == 2 and forward.samples.target is None


@mutant("gradients_of_the_loss")
def f_minus_y_detached() -> Made:
    def change(forward, w, pulled):  # type: ignore[no-untyped-def]
        own = (
            forward.call.loss_fn is None
            and forward.layout.canonical[1] == 1
            and _classes(forward) > 1
            and _is_of_two(forward)
        )
        return pulled.detach() if own and forward.pullbacks and forward.outputs.dtype == torch.float64 else pulled

    return output("loss", pull=change)


@mutant("gradients_of_the_probabilities")
def softmax_jacobian_detached() -> Made:
    def change(forward, w, pulled):  # type: ignore[no-untyped-def]
        f = forward.probabilities("").detach()
        own = forward.layout.canonical == (2, 1, 3) and forward.samples.target is None
        return f * (w - (f * w).sum(-1, keepdim=True)) if own else pulled

    return output("probabilities", pull=change)


@mutant("gradients_of_the_log_probabilities")
def log_softmax_jacobian_detached() -> Made:
    return output(
        "log_probabilities", pull=lambda forward, w, pulled: pulled.detach() if _classes(forward) > 1 else pulled
    )


@mutant("gradients_of_the_log_probabilities", "logits_far_apart", exactly=False)
def output_map_transposed() -> Made:
    def change(forward, w, pulled):  # type: ignore[no-untyped-def]
        return w - (forward.probabilities("") * w).sum(-1, keepdim=True) if _classes(forward) > 1 else pulled

    return output("log_probabilities", pull=change)


@mutant("gradients_of_the_probabilities", exactly=False)
def softmax_jacobian_not_centred() -> Made:
    return output("probabilities", pull=lambda forward, w, pulled: forward.probabilities("") * w)


@mutant("a_single_logit")
def single_logit_without_the_other_class() -> Made:
    def change(forward, w, pulled):  # type: ignore[no-untyped-def]
        return forward.probabilities("") * w if _classes(forward) == 1 else pulled

    return output("probabilities", pull=change)


@mutant("gradients_of_a_loss_of_the_caller")
def loss_of_the_caller_averaged_over_the_batch() -> Made:
    def change(forward, w, pulled):  # type: ignore[no-untyped-def]
        own = forward.call.loss_fn is not None and forward.position_weight is None and len(pulled) == 2
        return pulled / len(pulled) if own else pulled

    return output("loss", pull=change)


@mutant("labels_as_distributions")
def soft_labels_hardened() -> Made:
    def target(self, asker):  # type: ignore[no-untyped-def]
        labels = plain(self, asker)
        classes = labels.canonical[2]
        if labels.hard or classes == 1:
            return labels
        hard = torch.nn.functional.one_hot(labels.distribution.argmax(-1), classes)
        return replace(labels, labels=hard.to(labels.distribution.dtype))

    plain = Forward.target
    return patched(Forward, "target", target)


@mutant("classes_on_any_axis")
def sum_over_positions_for_their_mean() -> Made:
    def change(forward, w, pulled):  # type: ignore[no-untyped-def]
        own = forward.call.loss_fn is None and forward.position_weight is None and forward.target("").hard
        return pulled * forward.layout.canonical[1] if own else pulled

    return output("loss", pull=change)


@mutant("classes_on_any_axis", "labels_as_distributions", exactly=False)
def class_axis_taken_for_the_last() -> Made:
    plain = layout.Layout.of

    def wrong_layout(call, shape, batch, class_axis):  # type: ignore[no-untyped-def]
        return plain(call, shape, batch, None if class_axis is None else -1)

    return patched(layout.Layout, "of", wrong_layout)


@mutant("logits_far_apart")
def softmax_that_overflows() -> Made:
    def probabilities(self, asker):  # type: ignore[no-untyped-def]
        if _classes(self) == 1:
            return plain(self, asker)
        exponentials = self.logits.exp()
        return exponentials / exponentials.sum(-1, keepdim=True)

    plain = Forward.probabilities
    return patched(Forward, "probabilities", probabilities)


# --- norms and phi ----------------------------------------------------------------------------------------------------
L1, L2, LINF = (type(norms.NORMS[name]) for name in ("l1", "l2", "linf"))


@mutant("norm_l1")
def l1_of_the_largest_row_alone() -> Made:
    return patched(L1, "combine", lambda self, ops, first, second: torch.maximum(first, second))


@mutant("norm_linf")
def linf_not_squared() -> Made:
    plain = LINF.finish
    return patched(LINF, "finish", lambda self, ops, n, squared: plain(self, ops, n, squared and len(n) != 3))


@mutant("phis")
def phi_of_the_norm_for_that_of_its_square() -> Made:
    def change(plain, term, forward):  # type: ignore[no-untyped-def]
        own = term.squared and term.norm == "l2" and isinstance(term.phi, norms.hinge | norms.target)
        return plain(replace(term, squared=False) if own else term, forward)

    return per_sample(change)


@mutant("scale")
def constant_of_the_convention_left_out() -> Made:
    return per_sample(lambda plain, term, forward: plain(term, forward) / term.scale)


def _rows(change: Callable[[Any], Any]) -> Made:
    """`change(rows)` in place of the rows (c, B, ...) that a norm is of."""
    plain = norms.Norm.__call__

    def call(self, ops, chunks, squared):  # type: ignore[no-untyped-def]
        return plain(self, ops, (change(rows) for rows in chunks), squared)

    return patched(norms.Norm, "__call__", call)


@mutant("inputs_of_any_rank")
def norm_over_three_axes_at_most() -> Made:
    return _rows(lambda rows: rows.mean(tuple(range(2, rows.ndim - 3))) if rows.ndim > 5 else rows)


@mutant("inputs_of_any_rank", "through_convolutions", "through_attention", exactly=False)
def norm_over_the_first_axis_of_a_sample_alone() -> Made:
    return _rows(lambda rows: rows / rows[0, 0, 0].numel())


@mutant("units_of_the_input")
def norm_clipped_against_overflow() -> Made:
    plain = L2.partial
    return patched(L2, "partial", lambda self, ops, rows: plain(self, ops, rows).clamp(max=1e30))


@mutant("gradients_of_norms_and_phis")
def one_factor_of_the_hinge_detached() -> Made:
    def apply(self, ops, n):  # type: ignore[no-untyped-def]
        excess = torch.where(n > self.t, n - self.t, 0.0)
        return excess * excess.detach()

    return patched(norms.hinge, "apply", apply)


@mutant("gradients_of_norms_and_phis", exactly=False)
def norm_with_a_constant_divisor() -> Made:
    """n = sum g^2 / stop_gradient(n) has the value of the norm and twice its gradient."""
    plain = L2.finish

    def finish(self, ops, combined, squared):  # type: ignore[no-untyped-def]
        n = plain(self, ops, combined, squared)
        return n if squared else torch.where(n > 0, combined / n.detach(), n)

    return patched(L2, "finish", finish)


@mutant("any_regularizer_of_any_network")
def norm_forgotten_beside_a_random_class() -> Made:
    def change(plain, term, forward):  # type: ignore[no-untyped-def]
        own = isinstance(term.projection, projections.random_onehot) and term.norm != "l2"
        return plain(replace(term, norm="l2") if own else term, forward)

    return per_sample(change)


# --- what is a constant -----------------------------------------------------------------------------------------------
@mutant("gradients_with_fisher")
def f_minus_the_drawn_class_detached() -> Made:
    def directions(self, context, rows):  # type: ignore[no-untyped-def]
        drawn = plain(self, context, rows)
        return drawn.detach() if context.shape[:2] == (2, 1) else drawn

    plain = projections.fisher.directions
    return patched(projections.fisher, "directions", directions)


@mutant("gradients_with_top_singular")
def singular_vector_differentiated() -> Made:
    def directions(self, context, rows):  # type: ignore[no-untyped-def]
        u = plain(projections.top_singular(self.iterations), context, rows)
        v = context.pullback(u[0])
        _, push = context.ops.vjp(context.pullback, u[0].detach())
        again = push(v)
        return u + (again - again.detach()) / again.detach().norm(dim=-1, keepdim=True)

    plain = projections.top_singular.directions
    return patched(projections.top_singular, "directions", directions)


@mutant("gradients_with_top_singular", exactly=False)
def power_iterations_ignored() -> Made:
    def directions(self, context, rows):  # type: ignore[no-untyped-def]
        return plain(projections.top_singular(1), context, rows)

    plain = projections.top_singular.directions
    return patched(projections.top_singular, "directions", directions)


@mutant("gradients_with_fraction")
def input_of_the_part_detached() -> Made:
    def forward_pass(call, model, samples, pairs):  # type: ignore[no-untyped-def]
        x, *others = samples.arguments.leaves
        own = not others and x.shape == (2, 2) and samples.target is None
        if own and type(x.grad_fn).__name__ == "IndexBackward0":
            samples = replace(samples, arguments=replace(samples.arguments, leaves=(x.detach(),)))
        return plain(call, model, samples, pairs)

    plain = evaluation.forward_pass
    return patched(evaluation, "forward_pass", forward_pass)


@mutant("a_linear_layer_gives_weight_decay")
@contextmanager
def detached_where_the_input_does_not_matter() -> Iterator[TorchHarness]:
    """Taken for a constant: the Jacobian of a linear model depends on the weights, and on no input."""
    plain_pass, plain_values = evaluation.forward_pass, engine.per_sample

    def forward_pass(call, model, samples, pairs):  # type: ignore[no-untyped-def]
        forward = plain_pass(call, model, samples, pairs)
        forward._cache["x"] = forward.x if len(samples.arguments.wrt) == 1 else None
        return forward

    def values(term, forward):  # type: ignore[no-untyped-def]
        x = forward._cache.get("x")
        if x is None or term.norm != "l2" or (None, None) not in forward.pullbacks:
            return plain_values(term, forward)

        def pullback(w):  # type: ignore[no-untyped-def]
            pulled = forward.pullbacks[None, None](w)
            if not x.requires_grad or not pulled.requires_grad or torch._C._functorch.peek_interpreter_stack():
                return pulled
            (own,) = torch.autograd.grad(pulled.sum(), x, retain_graph=True, allow_unused=True)
            return pulled.detach() if own is None else pulled

        return plain_values(term, replace(forward, pullbacks={**forward.pullbacks, (None, None): pullback}))

    with patched(evaluation, "forward_pass", forward_pass), patched(engine, "per_sample", values) as harness:
        yield harness


@mutant("gradients_of_the_total", "gradients_of_sums", "through_layer_norm", exactly=False)
def penalty_detached() -> Made:
    return per_sample(lambda plain, term, forward: plain(term, forward).detach())


@mutant("confidence_penalty")
def entropy_of_a_constant_prediction() -> Made:
    def value(self, batch):  # type: ignore[no-untyped-def]
        z, (_, positions, classes) = batch.forward.logits, batch.forward.layout.canonical
        if classes == 1 or len(z) != 2:
            return plain(self, batch)
        return batch.mean((z.softmax(-1).detach() * z.log_softmax(-1)).sum((1, 2)) / positions)

    plain = ConfidencePenalty.value
    return patched(ConfidencePenalty, "value", value)


@mutant("weight_decay")
def decay_of_biases_too() -> Made:
    def value(self, batch):  # type: ignore[no-untyped-def]
        vectors = [array for array in batch.parameters("") if array.ndim < 2]
        return plain(self, batch) + sum(0.5 * (array**2).sum() for array in vectors)

    plain = WeightDecay.value
    return patched(WeightDecay, "value", value)


@mutant("float32")
def float32_through_half_precision() -> Made:
    def widened(ops, array):  # type: ignore[no-untyped-def]
        return plain(ops, array.to(torch.bfloat16) if array.dtype == torch.float32 else array)

    plain = engine.widened
    return patched(engine, "widened", widened)


# --- the side of the input --------------------------------------------------------------------------------------------
@mutant("input_side")
def tangent_of_the_softmax_detached() -> Made:
    def change(forward, t, pushed):  # type: ignore[no-untyped-def]
        f = forward.probabilities("").detach()
        return f * (t - (f * t).sum(-1, keepdim=True))

    return output("probabilities", push=change)
