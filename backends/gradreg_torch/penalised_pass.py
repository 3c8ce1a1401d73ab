"""Wraps the model for another library's loop: one call returns the outputs and computes the penalties."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradreg_core.errors import InputError, InputTypeError, UnsupportedError
from gradreg_core.inputs import Inputs
from gradreg_core.spec import JacobianTerm, Regularizer, Sum, Term
from gradreg_torch.calls import calls

__all__ = ["PenalisedPass", "differentiates_twice", "resolved"]


@dataclass
class PenalisedPass:
    """Is called once, in place of the model. All other attributes are the model's."""

    model: nn.Module
    name: str
    """The class of the model inside all wrappers."""
    terms: tuple[Term, ...]
    step: int
    batch: int
    y: Any
    """The labels, or None."""
    wrt: tuple[str, ...] | None
    """The names of the differentiated inputs; None for all floating-point ones."""
    loss_fn: Callable[[Any, Any], Tensor] | None
    """The loss function of the terms on the loss."""
    options: dict[str, Any]
    """Further keyword arguments of the calls."""
    penalties: list[Tensor] = field(default_factory=list)
    """The penalty of each term; zero if the term is not due."""
    returned: Any = None
    called: bool = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def _get_name(self) -> str:
        return self.name

    @property
    def on_loss(self) -> bool:
        """Whether a term that is due differentiates the loss."""
        lowered = [term.lower() for term in self.terms if term.is_due(self.step)]
        return any(term is not None and term.output == "loss" for term in lowered)

    def __call__(self, /, *args: Any, **inputs: Any) -> Any:
        """Call the model, and return its result.

        Raises:
            UnsupportedError: it was called before.
            InputTypeError: a term differentiates the input, and it is not floating-point.
        """
        if self.called:
            raise UnsupportedError(
                f"compute_loss calls {self.name} twice, and a penalty belongs to one pass. Give one of them the "
                f"regularizer: override compute_loss, and add gradreg_torch.penalty to the total."
            )
        self.called = True
        due = [term for term in self.terms if term.is_due(self.step)]
        over_whole = [term for term in due if getattr(term, "fraction", 1.0) >= 1]
        values: dict[int, Tensor] = {}
        if over_whole:
            values |= self._whole(over_whole, args, inputs)
        else:
            self.returned = self.model(*args, **inputs)
        values |= self._parts([term for term in due if term not in over_whole], args, inputs)
        like = next(iter(values.values()), torch.zeros((), device=next(self.model.parameters()).device))
        self.penalties = [values.get(index, torch.zeros_like(like)) for index in range(len(self.terms))]
        return self.returned

    def require_called(self, owner: str) -> None:
        """Refuse a loss that was computed without the pass.

        Raises:
            UnsupportedError: the model was not called.
        """
        if not self.called:
            raise UnsupportedError(
                f"{owner}: the loss was computed without calling the model passed to compute_loss, so there is "
                f"no penalty. Call model(**inputs)."
            )

    def data_loss(self) -> Tensor:
        """The loss that terms on the loss differentiate, from the outputs of the pass."""
        inputs = torch.zeros(self.batch, 1, device=self.penalties[0].device)
        options = {name: value for name, value in self.options.items() if name != "params"}
        return calls.loss(lambda _: self.returned, inputs, self.y, None, loss_fn=self.loss_fn, **options)[0]

    def _whole(self, due: Sequence[Term], args: Any, inputs: dict[str, Any]) -> dict[int, Tensor]:
        """The penalties over the whole batch, from the pass that gives the loop its outputs."""
        x, shared = self._arguments(due, args, inputs)

        def run(*args: Any, **inputs: Any) -> Any:
            self.returned = self.model(*args, **inputs, **shared)
            return self.returned

        loss_fn = self.loss_fn if self.on_loss else _first_output
        _, parts = calls.loss(run, x, self.y, Sum(tuple(due)), step=self.step, loss_fn=loss_fn, **self.options)
        return dict(zip(self._places(due), parts.penalty, strict=True))

    def _parts(self, due: Sequence[Term], args: Any, inputs: dict[str, Any]) -> dict[int, Tensor]:
        """The penalties over parts of the batch, each from a separate pass."""
        values = {}
        for place, term in zip(self._places(due), due, strict=True):
            x, shared = self._arguments((term,), args, inputs)

            def run(*args: Any, shared: dict[str, Any] = shared, **inputs: Any) -> Any:
                return self.model(*args, **inputs, **shared)

            values[place] = calls.penalty(run, x, self.y, term, step=self.step, loss_fn=self.loss_fn, **self.options)
        return values

    def _places(self, chosen: Sequence[Term]) -> list[int]:
        return [index for index, term in enumerate(self.terms) if any(term is other for other in chosen)]

    def _arguments(self, due: Sequence[Term], args: Any, inputs: dict[str, Any]) -> tuple[Inputs, dict[str, Any]]:
        """Split the arguments into those cut with the samples and those of the whole batch."""
        shared = {name: value for name, value in inputs.items() if not self._is_of_samples(value)}
        cut = {name: value for name, value in inputs.items() if name not in shared}
        wrt = None if self.wrt is None else tuple(name for name in self.wrt if _is_floating(cut.get(name)))
        if wrt == () and any(isinstance(term, JacobianTerm) and term.at is None for term in due):
            raise InputTypeError(
                f"{self.name} is called with {', '.join(inputs)}, and has no floating-point input to penalise: "
                f"tokens have no gradient. Name the embedding layer: "
                f"{type(due[0]).__name__}({due[0].weight!r}, at='embeddings'). Or name an input with wrt=."
            )
        return Inputs(*args, wrt=wrt or None, **cut), shared

    def _is_of_samples(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.shape[:1] == (self.batch,)


def differentiates_twice(term: Term) -> bool:
    """Whether the term's penalty needs the model's second derivatives, from a backward pass or a jvp."""
    lowered = term.lower()
    return lowered is not None and lowered.method != "difference"


def resolved(reg: Regularizer, model: nn.Module, name: str) -> tuple[Term, ...]:
    """The terms with full place names: a name that no module has stands for the one module whose name ends with it.

    Args:
        reg: the regularizer.
        model: the model as called.
        name: the name of its class, for messages.

    Raises:
        InputError: several modules' names end with a place's name.
    """
    modules = [other.removeprefix("module.") for other, _ in model.named_modules() if other]

    def full(place: str | None) -> str | None:
        if place is None or place in modules:
            return place
        ending = [other for other in modules if other.endswith(f".{place}")]
        if len(ending) > 1:
            raise InputError(
                f"at={place!r} fits {len(ending)} modules of {name}: {', '.join(ending[:4])}"
                f"{', ...' if len(ending) > 4 else ''}. Write one of these names in full."
            )
        return ending[0] if ending else place

    return tuple(
        replace(term, at=full(term.at), of=full(term.of)) if isinstance(term, JacobianTerm) else term
        for term in reg.terms
    )


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _first_output(outputs: Any, y: Any) -> Tensor:
    """A free number per sample or position, for loops that compute their own loss."""
    first = outputs[0].flatten(1) if isinstance(outputs, list) else outputs
    return first[..., 0] if first.dim() > 1 else first
