"""Mutants that get the formula of a penalty wrong: outputs, labels, norms, shapes, and what is a constant.

Left out, because they are equal: the square root taken and squared again, and a mean over the samples as a sum of
quotients (but for rounding, which is allowed).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from gradreg_core import engine, evaluation, layout, norms, projections
from gradreg_core.engine import Forward
from gradreg_torch.harness import TorchHarness
from mutants.mutant import mutant, patched

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]


# --- outputs and labels -----------------------------------------------------------------------------------------------
def _cotangent(change: Callable[[Forward, str, Any, Any], Any]) -> Made:
    """`change(forward, output, w, the cotangent)` in place of the cotangent."""
    plain = Forward.cotangent

    def cotangent(self, output, w):  # type: ignore[no-untyped-def]
        return change(self, output, w, plain(self, output, w))

    return patched(Forward, "cotangent", cotangent)


def _classes(forward: Forward) -> int:
    return forward.layout.canonical[2]


@mutant("gradients_of_the_loss")
def f_minus_y_detached() -> Made:
    def change(forward, output, w, found):  # type: ignore[no-untyped-def]
        own = output == "loss" and forward.call.loss_fn is None and _classes(forward) > 1
        return found.detach() if own and forward.pullbacks and forward.outputs.dtype == torch.float64 else found

    return _cotangent(change)


@mutant("gradients_of_the_probabilities")
def softmax_jacobian_detached() -> Made:
    def change(forward, output, w, found):  # type: ignore[no-untyped-def]
        f = forward.probabilities("").detach()
        own = output == "probabilities" and _classes(forward) == 3
        return f * (w - (f * w).sum(-1, keepdim=True)) if own else found

    return _cotangent(change)


@mutant("gradients_of_the_log_probabilities")
def log_softmax_jacobian_detached() -> Made:
    def change(forward, output, w, found):  # type: ignore[no-untyped-def]
        own = output == "log_probabilities" and _classes(forward) > 1
        return found.detach() if own else found

    return _cotangent(change)


@mutant("gradients_of_the_log_probabilities", "logits_far_apart", exactly=False)
def output_map_transposed() -> Made:
    def change(forward, output, w, found):  # type: ignore[no-untyped-def]
        own = output == "log_probabilities" and _classes(forward) > 1
        return w - (forward.probabilities("") * w).sum(-1, keepdim=True) if own else found

    return _cotangent(change)


@mutant("gradients_of_the_probabilities", exactly=False)
def softmax_jacobian_not_centred() -> Made:
    def change(forward, output, w, found):  # type: ignore[no-untyped-def]
        return forward.probabilities("") * w if output == "probabilities" else found

    return _cotangent(change)


@mutant("a_single_logit")
def single_logit_without_the_other_class() -> Made:
    def change(forward, output, w, found):  # type: ignore[no-untyped-def]
        own = output == "probabilities" and _classes(forward) == 1
        return forward.probabilities("") * w if own else found

    return _cotangent(change)


@mutant("gradients_of_a_loss_of_the_caller")
def loss_of_the_caller_averaged_over_the_batch() -> Made:
    def change(forward, output, w, found):  # type: ignore[no-untyped-def]
        return found / len(found) if output == "loss" and forward.call.loss_fn is not None else found

    return _cotangent(change)


@mutant("labels_as_distributions")
def soft_labels_hardened() -> Made:
    def target(self, what):  # type: ignore[no-untyped-def]
        found = plain(self, what)
        if found.hard or found.classes == 1:
            return found
        hard = torch.nn.functional.one_hot(found.distribution.argmax(-1), found.classes)
        return replace(found, labels=hard.to(found.distribution.dtype))

    plain = Forward.target
    return patched(Forward, "target", target)


@mutant("classes_on_any_axis")
def sum_over_positions_for_their_mean() -> Made:
    def change(forward, output, w, found):  # type: ignore[no-untyped-def]
        own = output == "loss" and forward.call.loss_fn is None and forward.target("").hard
        return found * forward.layout.canonical[1] if own else found

    return _cotangent(change)


@mutant("classes_on_any_axis", "labels_as_distributions", exactly=False)
def class_axis_taken_for_the_last() -> Made:
    plain = layout.Layout.of

    def wrong_layout(call, shape, batch, class_axis):  # type: ignore[no-untyped-def]
        return plain(call, shape, batch, None if class_axis is None else -1)

    return patched(layout.Layout, "of", wrong_layout)


@mutant("logits_far_apart")
def softmax_that_overflows() -> Made:
    def probabilities(self, what):  # type: ignore[no-untyped-def]
        if _classes(self) == 1:
            return plain(self, what)
        exponentials = self.logits.exp()
        return exponentials / exponentials.sum(-1, keepdim=True)

    plain = Forward.probabilities
    return patched(Forward, "probabilities", probabilities)


# --- norms and shapes -------------------------------------------------------------------------------------------------
def _combined(change: Callable[[str, bool, Any], Any]) -> Made:
    """`change(norm, squared, n)` in place of the norms n."""
    plain = norms.combine

    def combine(ops, norm, squared, partials):  # type: ignore[no-untyped-def]
        return change(norm, squared, plain(ops, norm, squared, partials))

    return patched(norms, "combine", combine)


@mutant("norm_l1")
def l1_of_the_largest_row_alone() -> Made:
    def combine(ops, norm, squared, partials):  # type: ignore[no-untyped-def]
        largest = [torch.stack(list(partials)).amax(0)] if norm == "l1" else partials
        return plain(ops, norm, squared, largest)

    plain = norms.combine
    return patched(norms, "combine", combine)


@mutant("norm_linf")
def linf_not_squared() -> Made:
    return _combined(lambda norm, squared, n: n.abs().sqrt() if norm == "linf" and squared else n)


@mutant("shapes")
def shape_of_the_norm_for_that_of_its_square() -> Made:
    def per_sample(term, forward):  # type: ignore[no-untyped-def]
        own = term.squared and term.norm == "l2" and term.side == "output"
        if own and isinstance(term.phi, norms.hinge | norms.target):
            term = replace(term, squared=False)
        return plain(term, forward)

    plain = evaluation._per_sample
    return patched(evaluation, "_per_sample", per_sample)


@mutant("scale")
def constant_of_the_convention_left_out() -> Made:
    def per_sample(term, forward):  # type: ignore[no-untyped-def]
        return plain(term, forward) / term.scale

    plain = evaluation._per_sample
    return patched(evaluation, "_per_sample", per_sample)


@mutant("inputs_of_any_rank")
def norm_over_three_axes_at_most() -> Made:
    def partial(ops, norm, gradients):  # type: ignore[no-untyped-def]
        if gradients.ndim > 5:
            gradients = gradients.mean(tuple(range(2, gradients.ndim - 3)))
        return plain(ops, norm, gradients)

    plain = norms.partial
    return patched(norms, "partial", partial)


@mutant("inputs_of_any_rank", "through_convolutions", "through_attention", exactly=False)
def norm_over_the_first_axis_of_a_sample_alone() -> Made:
    def partial(ops, norm, gradients):  # type: ignore[no-untyped-def]
        others = gradients[0, 0, 0].numel()
        return plain(ops, norm, gradients) / others

    plain = norms.partial
    return patched(norms, "partial", partial)


@mutant("units_of_the_input")
def norm_clipped_against_overflow() -> Made:
    def partial(ops, norm, gradients):  # type: ignore[no-untyped-def]
        return plain(ops, norm, gradients).clamp(max=1e30)

    plain = norms.partial
    return patched(norms, "partial", partial)


@mutant("gradients_of_norms_and_shapes")
def one_factor_of_the_hinge_detached() -> Made:
    def apply(self, ops, n):  # type: ignore[no-untyped-def]
        excess = torch.where(n > self.t, n - self.t, 0.0)
        return excess * excess.detach()

    return patched(norms.hinge, "apply", apply)


@mutant("gradients_of_norms_and_shapes", exactly=False)
def norm_with_a_constant_divisor() -> Made:
    """n = sum g^2 / stop_gradient(n) has the value of the norm and twice its gradient."""

    def combine(ops, norm, squared, partials):  # type: ignore[no-untyped-def]
        n = plain(ops, norm, squared, partials)
        return n if norm != "l2" or squared else torch.where(n > 0, sum(partials) / n.detach(), n)

    plain = norms.combine
    return patched(norms, "combine", combine)


@mutant("any_regularizer_of_any_network")
def probabilities_forgotten_beside_another_norm() -> Made:
    def per_sample(term, forward):  # type: ignore[no-untyped-def]
        if term.output == "probabilities" and term.norm != "l2" and term.side == "output":
            term = replace(term, output="logits")
        return plain(term, forward)

    plain = evaluation._per_sample
    return patched(evaluation, "_per_sample", per_sample)


# --- what is a constant -----------------------------------------------------------------------------------------------
@mutant("gradients_with_fisher")
def f_minus_the_drawn_class_detached() -> Made:
    def directions(self, context, rows):  # type: ignore[no-untyped-def]
        return plain(self, context, rows).detach()

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
    def forward_pass(call, model, x, y, ids, names):  # type: ignore[no-untyped-def]
        return plain(call, model, x.detach() if type(x.grad_fn).__name__ == "IndexBackward0" else x, y, ids, names)

    plain = evaluation.forward_pass
    return patched(evaluation, "forward_pass", forward_pass)


@mutant("a_linear_layer_gives_weight_decay")
@contextmanager
def detached_where_the_input_does_not_matter() -> Iterator[TorchHarness]:
    """Taken for a constant: the Jacobian of a linear model depends on the weights, and on no input."""
    plain_pass, plain_values = evaluation.forward_pass, evaluation._per_sample

    def forward_pass(call, model, x, y, ids, names):  # type: ignore[no-untyped-def]
        forward = plain_pass(call, model, x, y, ids, names)
        forward._cache["x"] = x
        return forward

    def per_sample(term, forward):  # type: ignore[no-untyped-def]
        x = forward._cache.get("x")
        if x is None or term.norm != "l2" or None not in forward.pullbacks:
            return plain_values(term, forward)

        def pullback(w):  # type: ignore[no-untyped-def]
            found = forward.pullbacks[None](w)
            if not x.requires_grad or not found.requires_grad or torch._C._functorch.peek_interpreter_stack():
                return found
            (own,) = torch.autograd.grad(found.sum(), x, retain_graph=True, allow_unused=True)
            return found.detach() if own is None else found

        return plain_values(term, replace(forward, pullbacks={**forward.pullbacks, None: pullback}))

    with patched(evaluation, "forward_pass", forward_pass), patched(evaluation, "_per_sample", per_sample) as harness:
        yield harness


@mutant("gradients_of_the_total", "gradients_of_sums", "through_layer_norm", exactly=False)
def penalty_detached() -> Made:
    def per_sample(term, forward):  # type: ignore[no-untyped-def]
        return plain(term, forward).detach()

    plain = evaluation._per_sample
    return patched(evaluation, "_per_sample", per_sample)


@mutant("confidence_penalty")
def entropy_of_a_constant_prediction() -> Made:
    def confidence(forward):  # type: ignore[no-untyped-def]
        if _classes(forward) == 1:
            return plain(forward)
        f = forward.logits.softmax(-1).detach()
        return (f * forward.logits.log_softmax(-1)).sum((1, 2)) / forward.layout.canonical[1]

    plain = evaluation._confidence
    return patched(evaluation, "_confidence", confidence)


@mutant("weight_decay")
def decay_of_biases_too() -> Made:
    def decay(call, model, like):  # type: ignore[no-untyped-def]
        leaves = call.ops.tree_leaves(call.params) if call.params is not None else call.ops.parameters(model)
        return plain(call, model, like) + sum(0.5 * (each**2).sum() for each in leaves if each.ndim < 2)

    plain = evaluation._weight_decay
    return patched(evaluation, "_weight_decay", decay)


@mutant("float32")
def float32_through_half_precision() -> Made:
    def widened(ops, array):  # type: ignore[no-untyped-def]
        return plain(ops, array.to(torch.bfloat16) if array.dtype == torch.float32 else array)

    plain = engine.widened
    return patched(engine, "widened", widened)


# --- the side of the input --------------------------------------------------------------------------------------------
@mutant("input_side")
def tangent_of_the_softmax_detached() -> Made:
    def tangent(self, output, dz):  # type: ignore[no-untyped-def]
        found = plain(self, output, dz)
        if output != "probabilities":
            return found
        f = self.probabilities("").detach()
        return f * (dz - (f * dz).sum(-1, keepdim=True))

    plain = Forward.tangent
    return patched(Forward, "tangent", tangent)
