"""Mutants that are wrong between two places, or in places that threads share or an error leaves behind."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from gradreg_core import taps
from gradreg_core.evaluation import _Batch
from gradreg_torch.harness import TorchHarness
from mutants.mutant import mutant, patched, per_sample

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]
_PLACES = "options_of_places"


def _of_place(**changed: Any) -> Made:
    """A term between two places with other options than its own."""
    return per_sample(lambda plain, term, forward: plain(replace(term, **changed) if term.of else term, forward))


@mutant(_PLACES)
def squares_between_two_places() -> Made:
    return _of_place(squared=True)


@mutant(_PLACES, exactly=False)
def the_l2_norm_between_two_places() -> Made:
    return _of_place(norm="l2")


@mutant(_PLACES)
def a_draw_of_each_sample_between_two_places() -> Made:
    return _of_place(draw="per_sample")


@mutant(_PLACES)
def every_charged_once_between_two_places() -> Made:
    plain = _Batch.charged

    def charged(self, term, plan_knows):  # type: ignore[no-untyped-def]
        between = getattr(term.lower(), "of", None)
        return plain(self, term, plan_knows) / (term.every if between else 1)

    return patched(_Batch, "charged", charged)


@mutant("calls_after_an_error")
@contextmanager
def places_that_stay_after_an_error() -> Iterator[TorchHarness]:
    plain = taps.Places.__exit__

    def leave(self, kind=None, *rest):  # type: ignore[no-untyped-def]
        if kind is None:
            plain(self, kind, *rest)

    # The places that stay end with the mutant.
    with patched(taps, "_here", threading.local()), patched(taps.Places, "__exit__", leave) as harness:
        yield harness


@mutant("calls_in_threads")
def places_that_threads_share() -> Made:
    return patched(taps, "_here", type("Here", (), {})())
