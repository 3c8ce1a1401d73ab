"""The authors' protocol as a value. Where the paper and the authors' public code differ, the choice is a field here."""

from dataclasses import dataclass

from gradreg_core.errors import InputError
from gradreg_core.presets import DataGrad
from gradreg_core.spec import JacobianTerm, Regularizer, Sum

__all__ = ["BEFORE_LAST", "NETWORKS", "PENALTY_PASSES", "STANDARDISE", "Choices", "Protocol", "split"]

NETWORKS = ("lenet", "lenettuned", "toy")
BEFORE_LAST = ("none", "dropout", "batchnorm")
STANDARDISE = ("each", "train")
PENALTY_PASSES = ("separate", "shared")


@dataclass(frozen=True)
class Protocol:
    """The training of a network on MNIST, the same for all regularizers."""

    network: str = "lenet"
    """"lenet" (61,706 parameters), as in the script of the paper's Table 1, or "lenettuned" (255,230), as in an earlier
    version of that script. The short paper does not say. "toy" is the network of Figure 1, right."""
    activation: str = "relu"
    """The activation of the hidden layers, one of :data:`gradreg_core.portable.networks.ACTIVATIONS`."""
    before_last: str = "none"
    """The layer before the last one: "none", "dropout" or "batchnorm" (always with the batch's moments, in the test
    too, as in the code)."""
    keep: float = 0.5
    """The probability that dropout keeps a unit."""
    train_size: int = 2000
    """The number of training images: the first of MNIST's first 50,000, permuted by the seed; not balanced by class."""
    steps: int = 10_001
    """Steps of Adam. The code counts from 0 to 10,000 inclusive."""
    batch: int = 50
    learning_rate: float = 1e-3
    """The learning rate: a tenth of it after half of the steps, a hundredth after three quarters."""
    standardise: str = "each"
    """"each": training and test images have their own mean and deviation (one number each), as in the code; "train":
    both use those of the training images."""
    penalty_pass: str = "separate"  # noqa: S105
    """The forward pass that a penalty on the logits' Jacobian differentiates if there is dropout: "separate", one
    with its own mask, as in the code; "shared", the loss's, as in the paper's formula. DataGrad always shares."""
    label_smoothing: float = 0.0
    mixup: float = 0.0
    """The parameter of the beta distribution of mixing weights; 0 for no mixing."""
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, choices in (
            ("network", NETWORKS),
            ("before_last", BEFORE_LAST),
            ("standardise", STANDARDISE),
            ("penalty_pass", PENALTY_PASSES),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"Protocol: {name} must be one of {choices}, got {getattr(self, name)!r}.")
        if not 0 < self.keep <= 1 or not 0 <= self.label_smoothing < 1 or self.mixup < 0:
            raise InputError(
                "Protocol: keep must be in (0, 1], label_smoothing in [0, 1), mixup at least 0, "
                f"got {self.keep}, {self.label_smoothing}, {self.mixup}."
            )
        if min(self.train_size, self.steps, self.batch) < 1:
            raise InputError(
                "Protocol: train_size, steps and batch must be at least 1, "
                f"got {self.train_size}, {self.steps}, {self.batch}."
            )

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0; the steps at the bounds have the rate before them."""
        last = self.steps - 1
        return self.learning_rate * (1.0 if step <= last // 2 else 0.1 if step <= 3 * last // 4 else 0.01)


@dataclass(frozen=True)
class Choices:
    """The choices that the paper and its code leave open beside those of :class:`Protocol`."""

    draw: str = "per_batch"
    """"per_batch": SpectReg has one direction for all images of a batch, as in the code; "per_sample": one each."""
    jacreg: str = "code"
    """Weights of JacReg in Figure 1, left. "code": SpectReg's, as every stored version of the script runs it; "tuned":
    those that the script defines but does not use."""
    entropy: str = "sum"
    """"sum": the confidence penalty's weight applies to the sum over a batch, as in the code; "mean": to its mean."""


def split(protocol: Protocol, reg: Regularizer | None) -> tuple[Regularizer | None, Regularizer | None]:
    """(the terms of the loss's forward pass, those of a pass with its own mask); None if there are none."""
    if reg is None:
        return None, None
    if protocol.before_last != "dropout" or protocol.penalty_pass == "shared":  # noqa: S105
        return reg, None
    apart = tuple(term for term in reg.terms if isinstance(term, JacobianTerm) and not isinstance(term, DataGrad))
    shared = tuple(term for term in reg.terms if term not in apart)
    return (Sum(shared) if shared else None), (Sum(apart) if apart else None)
