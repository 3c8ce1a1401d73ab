"""A backend under test: its harness, the profile, the mode and device, and a record of what was measured."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis.strategies import SearchStrategy, just, tuples

from gradreg_conformance import reference
from gradreg_conformance.cases import Case
from gradreg_conformance.draws import same_draws
from gradreg_conformance.forms import PLAIN
from gradreg_conformance.harness import Arrays, Function, Harness, load_harness
from gradreg_conformance.models import formed, loss_function
from gradreg_conformance.outcomes import Disagreement, NotApplicable
from gradreg_conformance.profiles import PROFILES, Profile
from gradreg_conformance.strategies import SMALL, cases
from gradreg_core.backend import Backend
from gradreg_core.errors import add_note
from gradreg_core.plugins.discovery import backends
from gradreg_core.plugins.hookspecs import BackendDescription
from gradreg_core.portable.networks import Network
from gradreg_core.spec import Regularizer

__all__ = ["TO_REPRODUCE", "Measured", "Subject", "load_subject"]

TO_REPRODUCE = "\nTo reproduce:\n"
"""Before the code that reproduces a failure, in its message."""


@dataclass
class Measured:
    """Measurements of one check: examples, and the worst error as a multiple of what rounding allows."""

    examples: int = 0
    worst: float | None = None
    pairs: tuple[int, int] | None = None
    """Of a check over a joint space: the pairs of choices that its examples had, and those that are possible."""

    def ratio(self, ratio: float) -> None:
        """Keep the larger."""
        self.worst = ratio if self.worst is None else max(self.worst, ratio)


@dataclass(frozen=True)
class Subject:
    """The arguments of a check: a backend, and how it runs.

    Args:
        name: the backend's name.
        harness: how it is driven.
        profile: how thoroughly.
        mode: one of the harness's modes.
        device: one of its devices.
        measured: filled by the check that runs.
    """

    name: str
    harness: Harness
    profile: Profile = PROFILES["quick"]
    mode: str = ""
    device: str = ""
    measured: Measured = field(default_factory=Measured)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", self.mode or self.harness.modes[0])
        object.__setattr__(self, "device", self.device or self.harness.devices[0])

    @property
    def backend(self) -> Backend | None:
        """The backend, or None if the calls are its own and not the engine's over primitives."""
        backend: Backend | None = getattr(self.harness.calls, "backend", None)
        return backend

    @property
    def ops(self) -> Any:
        """The primitives.

        Raises:
            NotApplicable: the calls are the backend's own, not the engine's over primitives.
        """
        if self.backend is None:
            raise NotApplicable("the backend has calls of its own and no primitives")
        return self.backend

    @property
    def dtype(self) -> str:
        """The dtype of all checks that are not about dtypes: the first that the harness declares."""
        return self.harness.dtypes[0]

    @property
    def description(self) -> BackendDescription | None:
        """The plugin's description, by the subject's name or by the backend's own; None if there is none."""
        names = (self.name, "" if self.backend is None else self.backend.name)
        records = (record for name in names for record in backends() if record.name == name)
        return next((record.description for record in records if record.description), None)

    @property
    def capabilities(self) -> frozenset[str]:
        """The declared capabilities; see :class:`gradreg_core.plugins.hookspecs.BackendDescription`."""
        return frozenset(self.description.capabilities if self.description is not None else ())

    def in_mode(self, mode: str) -> "Subject":
        """The same subject in another mode, with the same record."""
        return replace(self, mode=mode)

    def given(self, *strategies: SearchStrategy[Any], cost: int = 1) -> Callable[[Callable[..., None]], None]:
        """Run the decorated function, at once, on examples of `strategies`, as many as the profile says over `cost`."""

        def run(body: Callable[..., None]) -> None:
            @self.profile.settings(cost)
            @given(tuples(*strategies))
            def counted(arguments: tuple[Any, ...]) -> None:
                self.measured.examples += 1
                try:
                    body(*arguments)
                except Exception as error:
                    for case in arguments:
                        if isinstance(case, Case) and not isinstance(error, Disagreement):
                            add_note(error, self.reproduce(case).strip())
                    raise

            with same_draws():
                counted()

        return run

    # --- running a case ---------------------------------------------------------------------------------------------
    def array(self, values: Any, dtype: str) -> Any:
        """`values` as an array of the framework on the subject's device."""
        return self.harness.array(np.asarray(values), dtype, self.device)

    def arrays(self, case: Case) -> dict[str, Any]:
        """Weights, statistics and the input "x" of the case in the framework's arrays."""
        data = case.data
        return {path: self.array(value, case.dtype) for path, value in [*data.params.items(), ("x", data.x)]}

    def model(self, network: Network, arrays: Arrays) -> Any:
        """The portable network with its own ones of these arrays, as the model of a call.

        A model that held the input too could not be cut into parts of the batch.
        """
        own = network.weights() | network.statistics()
        return self.harness.model(network, {path: arrays[path] for path in own})

    def need_any_callable(self) -> None:
        """Raise NotApplicable where the calls do not take any function as model."""
        if not self.harness.any_callable:
            raise NotApplicable("the calls take models of the backend's own kind only, not any callable")

    def need_layers(self, network: Network) -> None:
        """Raise NotApplicable where the harness lacks a layer of the network."""
        missing = {type(layer) for _, layer, _ in network.walk()} - set(self.harness.layers)
        if missing:
            raise NotApplicable(f"the harness has no {', '.join(sorted(kind.__name__ for kind in missing))}")

    def session(self) -> AbstractContextManager[Any]:
        """The context to hold while a check runs."""
        return self.harness.session()

    def numbers(self, array: Any) -> np.ndarray:
        """An array of the framework as a NumPy array in float64."""
        return np.asarray(self.harness.numpy(array), np.float64)

    def function(self, case: Case, of: str = "penalty") -> Function:
        """The penalty, the total of loss and penalty, or the parts of the total, as a function of the case's arrays.

        With ``of="parts"`` it is the total, the loss and the penalty of every term, weighted by
        :func:`gradreg_conformance.reference.weighted_parts`.
        """
        calls, names = self.harness.calls, case.network.weights()
        y, options, reg = self.labels(case), self.options(case), case.form.named(case.reg)
        presented = self.presented(case)

        def function(arrays: Any) -> Any:
            model, x = presented(arrays)
            weights = {path: arrays[path] for path in names}
            if of == "penalty":
                return calls.penalty(model, x, y, reg, params=weights, **options)
            total, parts = calls.loss(model, x, y, reg, params=weights, **options)
            return total if of == "total" else reference.weighted_parts(total, parts)

        return function

    def presented(self, case: Case) -> Callable[[Arrays], tuple[Any, Any]]:
        """A function of the arrays of the case that gives the model and the input of the call, in the case's form.

        Raises:
            NotApplicable: the form is not the plain one, and the calls take models of the backend's own kind only.
        """
        if case.form == PLAIN:
            return lambda arrays: (self.model(case.network, arrays), arrays["x"])
        self.need_any_callable()
        self.need_layers(case.network)
        counts = None if case.data.counts is None else self.array(case.data.counts, "int32")
        return partial(formed, self.ops, self.model, case, counts)

    def labels(self, case: Case) -> Any:
        """The labels of the case in the framework's arrays, or None."""
        y = case.data.y
        if y is None:
            return None
        return case.form.labels_of(self.array(y, case.label_dtype if y.dtype.kind == "i" else case.dtype))

    def options(self, case: Case) -> dict[str, Any]:
        """The keyword arguments of the call, arrays in the framework's own."""
        options = case.options() | {"batch_norm": "allow"}
        if case.ids is not None:
            options["sample_ids"] = self.array(case.ids, "int64")
        if case.sample_weight is not None:
            options["sample_weight"] = self.array(case.sample_weight, case.dtype)
        if case.position_weight is not None:
            options["position_weight"] = self.array(case.position_weight, case.dtype)
        if case.data.directions is not None:
            options["directions"] = self.array(case.data.directions, case.dtype)
        target = case.data.target
        if isinstance(target, Mapping):
            teacher = {path: self.array(value, case.dtype) for path, value in target.items()}
            options["target"] = self.model(case.network, teacher)
        elif target is not None:
            options["target"] = self.array(target, case.dtype)
        if case.form.selector is not None:
            options["outputs"] = case.form.selector
        if case.loss != "cross_entropy":
            plain = case.loss == "squared" and case.form == PLAIN
            options["loss_fn"] = loss_function(None if plain else self.ops, case)
        return options

    def value(self, case: Case, of: str = "penalty") -> np.ndarray:
        """The value of the case, in float64."""
        return self.numbers(self.harness.value(self.function(case, of), self.arrays(case), self.mode))

    def gradients(self, case: Case, of: str = "penalty") -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The value of the case, and its gradients with respect to every weight, by path, and to the input ("x")."""
        arrays, function = self.arrays(case), self.function(case, of)
        fixed = {path: arrays.pop(path) for path in case.network.statistics()}
        value, gradients = self.harness.value_and_gradients(lambda free: function({**fixed, **free}), arrays, self.mode)
        names = [*case.network.weights(), "x"]
        missing = [name for name in names if gradients.get(name) is None]
        if missing:
            raise Disagreement(f"the gradients with respect to {', '.join(missing)} are missing.{self.reproduce(case)}")
        return self.numbers(value), {name: self.numbers(gradients[name]) for name in names}

    # --- comparing --------------------------------------------------------------------------------------------------
    def agree(
        self,
        regs: SearchStrategy[Regularizer] | Regularizer,
        network: Network = SMALL,
        *,
        batch: int = 3,
        of: str = "penalty",
        values: bool = True,
        gradients: bool = False,
        cost: int = 2,
        **options: SearchStrategy[Any],
    ) -> None:
        """Draw cases, and compare their values, their gradients or both with the reference's.

        Args:
            regs: the regularizers, or one.
            network: the network.
            batch: the number of samples.
            of: "penalty", or "total" for loss plus penalty.
            values: whether to compare values where gradients are compared; otherwise they are.
            gradients: whether to compare gradients.
            cost: see :meth:`given`.
            options: strategies for further fields of :class:`Case`.
        """
        regs = just(regs) if isinstance(regs, Regularizer) else regs

        @self.given(cases(self.harness, regs, just(network), batch=(batch, batch), **options), cost=cost)
        def _(case: Case) -> None:
            if values and gradients:
                self.agree_in_both(case, of)
            elif gradients:
                self.agree_in_gradients(case, of)
            else:
                self.agree_in_value(case, of)

    def agree_in_value(self, case: Case, of: str = "penalty") -> None:
        """Compare the value of the case with the reference's."""
        self.compare(case, f"the {of}", {"value": self.value(case, of)}, reference.expected_value(case, of))

    def agree_in_gradients(self, case: Case, of: str = "penalty") -> None:
        """Compare the gradients of the case with the reference's."""
        _, gradients = self.gradients(case, of)
        self.compare(case, f"the gradients of the {of}", gradients, reference.expected_gradient(case, of))

    def agree_in_total(self, case: Case) -> None:
        """Compare loss plus penalty of the case and its gradients, from one computation, with the reference's."""
        self.agree_in_both(case, "total")

    def agree_in_both(self, case: Case, of: str = "penalty", room: float = 1.0) -> None:
        """Compare the value of the case and its gradients, from one computation, with the reference's.

        `room` is a multiplier of what rounding allows.
        """
        value, gradients = self.gradients(case, of)
        self.compare(case, f"the {of}", {"value": value}, reference.expected_value(case, of), room)
        self.compare(case, f"the gradients of the {of}", gradients, reference.expected_gradient(case, of), room)

    def agree_in_slopes(self, case: Case, of: str, room: float = 1.0) -> None:
        """Compare the value of the case, and its gradients along a few random directions, with the reference's.

        `room` is a multiplier of what rounding allows.
        """
        value, gradients = self.gradients(case, of)
        for name, array in (*case.data.params.items(), ("x", case.data.x)):
            if name in gradients and gradients[name].shape != array.shape:
                self.disagree(case, f"the gradient with respect to {name} has shape {gradients[name].shape}")
        wanted, slopes = reference.expected_slopes(case, of), reference.slopes_of(case, gradients)
        label = f"the gradients of the {of}, along random directions,"
        self.compare(case, f"the {of}", {"value": value}, wanted["value"], room)
        self.compare(case, label, {"slopes": slopes}, wanted["slopes"], room)

    def compare(
        self,
        case: Case,
        label: str,
        result: Mapping[str, np.ndarray],
        wanted: reference.Expected,
        room: float = 1.0,
    ) -> None:
        """Raise where `result` is further from `wanted` than rounding allows, times `room`; `label` says what it is.

        Raises:
            Disagreement: with the error, what is allowed, and code that reproduces it.
        """
        for name, array in wanted.arrays.items():
            if np.shape(result[name]) != np.shape(array):
                self.disagree(case, f"{label}: {name} has shape {np.shape(result[name])}, expected {np.shape(array)}")
        comparison = reference.Comparison(result, wanted, wanted.allowed(case.dtype, room * self.harness.tolerance))
        self.measured.ratio(comparison.ratio)
        if not comparison.ratio <= 1:
            self.disagree(
                case,
                f"{label} of {case.dtype} in mode {self.mode!r} differ from the reference by {comparison.relative:.1e} "
                f"of the norm, {comparison.ratio:.3g} times what rounding allows",
            )

    def close(self, case: Case, label: str, result: Any, wanted: Any, allowed: float) -> None:
        """Raise where two numbers differ by more than `allowed`, an absolute error."""
        error = float(np.max(np.abs(np.asarray(result, np.float64) - np.asarray(wanted, np.float64)), initial=0.0))
        ratio = reference.error_ratio(error, allowed)
        self.measured.ratio(ratio)
        if not ratio <= 1:
            self.disagree(case, f"{label}: expected {wanted!r}, got {result!r}, {ratio:.3g} times what rounding allows")

    def disagree(self, case: Case, message: str) -> None:
        """Raise :class:`Disagreement` with code that reproduces it."""
        raise Disagreement(f"{message}.{self.reproduce(case)}")

    def reproduce(self, case: Case, of: str = "penalty") -> str:
        """Lines of code that give the subject's and the reference's numbers for the case."""
        chosen = "" if of == "penalty" else f", of={of!r}"
        return (
            f"{TO_REPRODUCE}"
            f"    from gradreg_conformance.reproduce import *\n"
            f"    case = {case!r}\n"
            f"    compare({self.name!r}, case, mode={self.mode!r}, device={self.device!r}{chosen})"
        )


def load_subject(name: str, profile: str = "quick", mode: str = "", device: str = "") -> Subject:
    """The backend `name` as a subject.

    Raises:
        BackendNotFoundError, BackendImportError, PluginError: as :func:`gradreg_conformance.harness.load_harness`.
    """
    return Subject(name, load_harness(name), PROFILES[profile], mode, device)
