"""The results of the calls, the same in every backend."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from gradreg_core.errors import InputError

__all__ = ["Measures", "Parts", "term_names"]


class Parts(NamedTuple):
    """The parts of the total of ``loss(model, x, y, reg)``: total = loss + sum(penalty).

    All of them can be differentiated, like the total: ``(parts.loss + 2 * sum(parts.penalty)).backward()`` in
    PyTorch. To log them use :meth:`log`, or ``parts.penalty[0].item()``; PyTorch warns of ``float(parts.penalty[0])``.
    """

    loss: Any
    """The data loss, a scalar."""
    penalty: tuple[Any, ...]
    """The weighted value of each term of the regularizer, in its order: scalars."""
    outputs: Any
    """The model's outputs on the whole batch."""

    def log(self, reg: Any = None) -> dict[str, Any]:
        """The scalars by name, for any logger.

        Args:
            reg: the regularizer that was charged, for the names of its terms.

        Returns:
            ``"loss"``, ``"penalty"``, the sum over the terms, and ``"total"``, the sum of both; with `reg` also
            ``"penalty/SpectReg"`` and so on, one per term, numbered if several have one type
            (``"penalty/SpectReg 2"``). Scalars of the framework: nothing is read from a device. In PyTorch they are
            detached, so that ``float()`` accepts them without a warning, and a list of them keeps no graph alive.

        Raises:
            InputError: `reg` has a different number of terms.
        """
        names = () if reg is None else term_names(reg.terms)
        if names and len(names) != len(self.penalty):
            raise InputError(
                f"log: {reg!r} has {len(names)} terms, and these parts have {len(self.penalty)}. Pass the regularizer "
                f"that was charged."
            )
        penalty = sum(self.penalty[1:], self.penalty[0]) if self.penalty else self.loss * 0
        own = {f"penalty/{name}": value for name, value in zip(names, self.penalty, strict=False)}
        scalars = {"loss": self.loss, "penalty": penalty, **own, "total": self.loss + penalty}
        return {name: value.detach() if hasattr(value, "detach") else value for name, value in scalars.items()}


class Measures(NamedTuple):
    """Unsquared norms of each sample's Jacobian J = dz/dx at the input, arrays of shape (B,)."""

    frobenius: Any
    """||J||_F."""
    spectral: Any
    """The largest singular value of J, at most ||J||_F."""
    loss_gradient: Any | None
    """||dM/dx||, the norm of the loss's input gradient: ||J^T (f - y)|| for cross-entropy. None without labels."""


def term_names(terms: Sequence[Any]) -> list[str]:
    """A short name of each term of a regularizer: its type, numbered if several have one type."""
    kinds = [type(term).__name__ for term in terms]
    counts, seen = Counter(kinds), Counter[str]()
    names = []
    for kind in kinds:
        seen[kind] += 1
        names.append(kind if counts[kind] == 1 else f"{kind} {seen[kind]}")
    return names
