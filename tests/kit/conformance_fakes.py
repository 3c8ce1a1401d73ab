"""Harnesses and checks for the tests of the conformance kit: quick, with known results."""

import os
import signal

from gradreg_conformance import runner
from gradreg_conformance.check import LAYERS, Check, Disagreement, NotApplicable
from gradreg_conformance.harness import Harness


class FakeHarness(Harness):
    """Computes nothing; says of the check `weak` that it fails."""

    calls = None
    modes = ("eager", "jit")
    layers = frozenset()
    dtypes = ("float64", "float32")
    devices = ("cpu", "npu")
    tolerance = 2.0
    expected_failures = {"weak": "the fake has no such thing"}
    versions = {"fake": "1.2"}


class BraveHarness(FakeHarness):
    """Passes everything that it is asked to do."""

    expected_failures = {}


class OtherHarness(BraveHarness):
    """Another such."""


def die():
    """A harness that takes its process with it."""
    os.kill(os.getpid(), signal.SIGKILL)


def wrong():
    """The PyTorch harness, with gradients of half the size."""
    from gradreg_torch.harness import TorchHarness

    class Wrong(TorchHarness):
        def value_and_gradients(self, function, arrays, mode):
            value, gradients = super().value_and_gradients(function, arrays, mode)
            return value, {name: 0.5 * gradient for name, gradient in gradients.items()}

    return Wrong()


def made(name, layer, run, claim="It is so."):
    """A check out of the registry."""

    def function(subject):
        return run(subject)

    function.__doc__ = claim
    return Check(name, LAYERS.index(layer), function)


def _good(subject):
    subject.measured.examples += 3
    subject.measured.ratio(0.25)


def _bad(subject):
    subject.measured.ratio(40.0)
    raise Disagreement("expected <1>, got 2.\nTo reproduce:\n    print(1)")


def _lacking(subject):
    raise NotApplicable("the fake has one device")


GOOD = made("good", "loads", _good)
LACKING = made("lacking", "primitives", _lacking)
BAD = made("bad", "values", _bad)
WEAK = made("weak", "values", _bad)
LATE = made("late", "laws", _good)


def install(*names):
    """Replace the kit's checks by fakes, all or these, and return the kit's."""
    before = runner.CHECKS
    fakes = (LATE, GOOD, LACKING, BAD, WEAK)
    runner.CHECKS = {fake.name: fake for fake in fakes if not names or fake.name in names}
    return before
