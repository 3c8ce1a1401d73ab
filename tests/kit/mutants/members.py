"""Mutants that get target Jacobians, pairs of layers or differences along the gradient wrong."""

from contextlib import AbstractContextManager
from dataclasses import replace

from gradreg_core import engine, forward, input_side
from gradreg_torch.harness import TorchHarness
from mutants.mutant import mutant, patched, per_sample

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]


# --- target Jacobians -------------------------------------------------------------------------------------------------
@mutant("target_jacobians")
def target_of_the_first_samples_for_a_part() -> Made:
    plain = forward.Samples.take

    def take(self, indices):  # type: ignore[no-untyped-def]
        part = plain(self, indices)
        return (
            part if callable(self.target) or self.target is None else replace(part, target=self.target[: len(indices)])
        )

    return patched(forward.Samples, "take", take)


@mutant("target_jacobians")
def jacobian_of_the_teacher_added() -> Made:
    plain = engine._target_rows

    def rows(term, passed, rows, pulled):  # type: ignore[no-untyped-def]
        return plain(term, passed, rows, pulled) * (-1 if callable(passed.samples.target) else 1)

    return patched(engine, "_target_rows", rows)


# --- from layer to layer ----------------------------------------------------------------------------------------------
@mutant("between_layers")
def norm_of_a_place_as_a_mean_over_its_components() -> Made:
    def change(plain, term, passed):  # type: ignore[no-untyped-def]
        values = plain(term, passed)
        named = term.of is not None and not term.of.startswith("layer")  # by the layer's own name, and by no tap's
        return values / passed.values[term.of][0].numel() if named else values

    return per_sample(change)


# --- differences along the gradient -----------------------------------------------------------------------------------
@mutant("along_the_gradient")
def step_along_the_gradient_in_units_of_its_length() -> Made:
    return patched(input_side, "unit", lambda ops, rows: rows)


@mutant("along_the_gradient")
def step_along_the_gradient_of_the_whole_batch() -> Made:
    return patched(input_side, "unit", lambda ops, rows: rows / rows.norm())
