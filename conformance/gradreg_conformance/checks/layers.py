"""Gradients of the penalty through every portable layer, against the reference.

A nonlinearity comes before each norm, because behind linear layers alone a wrong second derivative of it hides.
"""

from gradreg_conformance.check import check
from gradreg_conformance.strategies import NORM_EPS
from gradreg_conformance.subject import Subject
from gradreg_core.portable import networks as nets
from gradreg_core.portable.networks import Activation, Dense, Flatten, Layer, Network
from gradreg_core.projections import gaussian
from gradreg_core.spec import JacobianPenalty

_REG = JacobianPenalty(1.0, projection=gaussian())
_TANH = Activation("tanh")


def _agree(subject: Subject, network: Network, batch: int = 2, cost: int = 2) -> None:
    subject.need_layers(network)
    subject.agree(_REG, network, batch=batch, values=False, gradients=True, cost=cost)


def _between(*layers: Layer) -> Network:
    return Network((2,), (Dense(3), _TANH, *layers, _TANH, Dense(2)))


@check("gradients")
def through_activations(subject: Subject) -> None:
    """Every activation's second derivative is right."""
    for kind in nets.ACTIVATIONS:
        _agree(subject, Network((2,), (Dense(3), Activation(kind), Dense(2))), cost=5)


@check("gradients")
def through_layer_norm(subject: Subject) -> None:
    """LayerNorm, over the last of several axes: mean and variance are differentiated twice."""
    _agree(subject, Network((2, 2), (Dense(3), _TANH, nets.LayerNorm(NORM_EPS), _TANH, Flatten(), Dense(2))))


@check("gradients")
def through_batch_norm_with_given_statistics(subject: Subject) -> None:
    """BatchNorm with given statistics scales each channel, the last of several axes."""
    _agree(subject, Network((2, 2), (Dense(3), _TANH, nets.BatchNorm(NORM_EPS), _TANH, Flatten(), Dense(2))))


@check("gradients")
def through_batch_norm_in_training(subject: Subject) -> None:
    """BatchNorm with the batch's own moments: they are differentiated twice, and the samples are coupled."""
    _agree(subject, _between(nets.BatchNorm(NORM_EPS, training=True)), batch=3)


@check("gradients")
def through_group_norm(subject: Subject) -> None:
    """GroupNorm over positions and neighbouring channels: mean and variance of a group are differentiated twice."""
    _agree(subject, Network((2, 2), (Dense(4), _TANH, nets.GroupNorm(2, NORM_EPS), _TANH, Flatten(), Dense(2))))


@check("gradients")
def through_residuals(subject: Subject) -> None:
    """Both branches of a residual block count, and of one inside another."""
    _agree(subject, _between(nets.Residual((Dense(3), _TANH, nets.Residual((Dense(3), _TANH))))))


@check("gradients")
def through_convolutions(subject: Subject) -> None:
    """Convolutions of several channels, with and without padding."""
    for padding in ("valid", "same"):
        _agree(subject, Network((3, 3, 2), (nets.Conv2D(2, 3, padding), _TANH, Flatten(), Dense(2))), cost=5)


@check("gradients")
def through_max_pooling(subject: Subject) -> None:
    """The maximum of each window has its whole derivative."""
    _agree(subject, Network((3, 3, 1), (nets.Conv2D(2, 1), _TANH, nets.MaxPool(2), _TANH, Flatten(), Dense(2))))


@check("gradients")
def through_average_pooling(subject: Subject) -> None:
    """All of a window have an equal share of the derivative."""
    _agree(subject, Network((3, 3, 1), (nets.Conv2D(2, 1), _TANH, nets.AvgPool(2), _TANH, Flatten(), Dense(2))))


@check("gradients")
def through_attention(subject: Subject) -> None:
    """Attention: softmax of products of the input with itself, in one head and in two."""
    for heads in (1, 2):
        _agree(subject, Network((2, 2), (nets.Attention(heads), _TANH, Flatten(), Dense(2))), cost=5)
