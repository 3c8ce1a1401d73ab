"""Bad input to the PyTorch backend: the errors and their messages."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gradreg_torch as gradreg
from gradreg_core.errors import BatchNormError, BatchNormWarning, InputError, InputTypeError
from gradreg_core.spec import JacobianPenalty

REG = gradreg.DataGrad(1.0)
X = torch.linspace(-1, 1, 20).reshape(4, 5)
Y = torch.tensor([0, 1, 2, 1])


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def refuse(kind: type, message: str, model: Any, x: Any = X, y: Any = Y, reg: Any = REG, **options: Any) -> None:
    for call in (gradreg.loss, gradreg.penalty):
        with pytest.raises(kind, match=message):
            call(model, x, y, reg, **options)


def test_inputs(model: nn.Module) -> None:
    refuse(InputTypeError, "the input has dtype int64, and only floating-point inputs", model, x=X.long())
    refuse(InputTypeError, "x must be an array of the torch backend, got numpy.ndarray", model, x=X.numpy())
    refuse(InputError, "x must have a batch axis with at least one sample, got shape", model, x=torch.tensor(1.0))
    refuse(InputError, r"with at least one sample, got shape \(0, 5\)", model, x=X[:0])
    refuse(InputTypeError, "reg must be a regularizer such as SpectReg", model, reg=0.01)
    refuse(TypeError, "unexpected keyword argument 'steps'", model, steps=3)
    refuse(InputError, "chunk_size must be an integer of at least 1, got 0", model, chunk_size=0)
    refuse(InputError, "batch_norm must be one of", model, batch_norm="ignore")
    refuse(InputError, "step must be at least 0, got -1", model, step=-1)
    refuse(InputTypeError, "step must be an integer, got 1.5", model, step=1.5)
    refuse(InputTypeError, "a 0-d array of integers, got float32 of shape", model, step=torch.tensor(1.5))
    refuse(InputTypeError, r"a 0-d array of integers, got int64 of shape \(1,\)", model, step=torch.tensor([1]))
    refuse(InputError, r"seed must be in \[0, 2\*\*64\), got -1", model, seed=-1)
    refuse(InputTypeError, "seed must be an integer, got True", model, seed=True)
    refuse(InputTypeError, "seed must be an integer or a 0-d array of integers", model, seed=torch.tensor(0.5))
    refuse(InputError, r"sample_ids must be 4 integers, one for each sample", model, sample_ids=torch.arange(3))
    refuse(InputError, r"sample_ids must be 4 integers", model, sample_ids=torch.zeros(4))
    refuse(InputError, r"sample_weight must have shape \(4,\), got \(3,\)", model, sample_weight=torch.ones(3))
    refuse(InputError, "sample_weight must be finite and at least 0 everywhere", model, sample_weight=-torch.ones(4))
    refuse(InputError, "normalizer must be a finite number above 0, got 0", model, normalizer=0)
    with pytest.raises(InputTypeError, match="penalty: expected a regularizer such as SpectReg"):
        gradreg.penalty(model, X, Y, None)


def test_the_input_does_not_reach_the_outputs(model: nn.Module) -> None:
    refuse(InputError, "x does not reach the outputs: the model detaches them", lambda x: model(x).detach())
    refuse(InputError, "x does not reach the outputs: they do not depend on it", lambda x: model(x.detach()))


def test_outputs(model: nn.Module) -> None:
    refuse(InputError, r"expected outputs of shape \(4, ...\), one row for each", lambda x: model(x).mean(0))
    refuse(InputError, r"expected outputs of shape \(4, ...\)", lambda x: model(x).sum())
    refuse(InputTypeError, "must return one array of floating-point outputs, got tuple", lambda x: (model(x), 1))
    refuse(InputTypeError, "got Tensor of int64", lambda x: model(x).argmax(-1, keepdim=True))
    refuse(InputError, "the outputs are empty", lambda x: model(x)[:, :0])
    for bad in (math.nan, math.inf):
        scale = torch.tensor([1.0, 1.0, bad, 1.0])[:, None]
        refuse(InputError, "the outputs of sample 2 are NaN or infinite", lambda x, s=scale: model(x) * s)


def test_labels(model: nn.Module) -> None:
    refuse(InputError, "needs labels, but y is None; pass y", model, y=None)
    refuse(
        InputError,
        r"labels must lie in 0..2 for 3 outputs, got values from 0 to 3",
        model,
        y=torch.tensor([0, 1, 2, 3]),
    )
    refuse(InputError, r"got values from -1 to 2", model, y=torch.tensor([0, 1, 2, -1]))
    refuse(
        InputError,
        r"expected integer class labels of shape \(4,\) for outputs of shape \(4, 3\), got \(3,\)",
        model,
        y=Y[:3],
    )
    refuse(InputError, r"expected integer class labels of shape \(4,\)", model, y=Y[:, None])
    refuse(InputError, "Class labels must be of an integer type", model, y=Y.float())
    refuse(InputError, "soft labels must sum to 1", model, y=torch.ones(4, 3))
    refuse(InputError, "soft labels must be probabilities", model, y=torch.tensor([[2.0, -1.0, 0.0]] * 4))
    refuse(InputTypeError, "y must be an array of labels, got dict", model, y={})
    refuse(
        InputTypeError, "labels must be integers or floating-point probabilities, got dtype complex64", model, y=Y + 1j
    )
    refuse(InputError, "needs integer class labels, got soft labels", model, y=torch.eye(3)[Y], reg=gradreg.OneHot(1.0))
    one = nn.Linear(5, 1)
    refuse(InputError, "labels must lie in 0..1 for 1 outputs", one, y=Y)
    refuse(InputError, "soft labels must be probabilities", one, y=Y.float())


def test_the_class_axis_is_never_guessed() -> None:
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    conv = nn.Conv2d(3, 5, 1)
    labels = torch.zeros(2, 4, 4, dtype=torch.int64)
    refuse(
        InputError, r"which axis of the outputs \(2, 5, 4, 4\) holds the classes; pass class_axis", conv, images, labels
    )
    refuse(InputError, "class_axis=4 must name an axis after the first", conv, images, labels, class_axis=4)
    refuse(InputError, "class_axis=0 must name an axis after the first", conv, images, labels, class_axis=0)
    _, parts = gradreg.loss(conv, images, labels, REG, class_axis=1)
    torch.testing.assert_close(parts.loss, nn.functional.cross_entropy(conv(images), labels))
    assert gradreg.penalty(conv, images, None, gradreg.SpectReg(1.0)).item() > 0  # needs no classes


def test_loss_functions(model: nn.Module) -> None:
    refuse_loss = [
        (nn.CrossEntropyLoss(), "must return one loss for each sample"),
        (lambda z, y: 1.0, r"must return one loss for each sample, shape \(4, ...\), got float"),
    ]
    for loss_fn, message in refuse_loss:
        refuse(InputError, message, model, loss_fn=loss_fn)
    refuse(InputTypeError, "loss_fn must be a function", model, loss_fn="mse")


def test_projections_larger_than_the_output(model: nn.Module) -> None:
    refuse(
        InputError, "only 3 orthonormal directions", model, reg=JacobianPenalty(1.0, projection=gradreg.orthonormal(4))
    )
    refuse(InputError, "the output has only 3 classes", model, reg=JacobianPenalty(1.0, projection=gradreg.top_k(4)))
    given = JacobianPenalty(1.0, projection=gradreg.direction())
    refuse(InputError, "no directions were given; pass directions=", model, reg=given)
    refuse(InputError, r"directions= must have shape \(3,\), \(4, 3\)", model, reg=given, directions=torch.ones(2))
    fixed = JacobianPenalty(1.0, projection=gradreg.direction((1.0, 2.0)))
    refuse(InputError, "v has 2 components, but a sample has 3 outputs", model, reg=fixed)
    part = JacobianPenalty(1.0, projection=gradreg.direction(), fraction=0.5)
    refuse(InputError, "fraction < 1 do not go together", model, reg=part, directions=torch.ones(3))


def test_weight_decay_needs_parameters(model: nn.Module) -> None:
    decay = gradreg.WeightDecay(1.0)
    refuse(InputError, "cannot see the parameters of a function; pass params=", lambda x: model(x), reg=decay)
    by_hand = gradreg.penalty(lambda x: model(x), X, Y, decay, params=dict(model.named_parameters()))
    assert by_hand.item() == gradreg.penalty(model, X, Y, decay).item() > 0


def test_batch_norm_policy() -> None:
    coupled = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))
    message = r"1 \(BatchNorm1d\) is in training mode and couples the samples"
    with pytest.warns(BatchNormWarning, match=message):
        gradreg.loss(coupled, X, Y, REG)
    refuse(BatchNormError, message, coupled, batch_norm="error")
    gradreg.loss(coupled, X, Y, REG, batch_norm="allow")
    gradreg.loss(coupled.eval(), X, Y, REG, batch_norm="error")
    always = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)).eval()
    refuse(BatchNormError, "couples the samples", always, batch_norm="error")


def test_a_penalty_without_gradient(model: nn.Module) -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights = [layer.weight.detach() for layer in (self.inner[0], self.inner[2])]
            return x @ weights[0].T @ weights[1].T

    refuse(
        InputError,
        "the penalty has no gradient: the model's parameters do not reach it",
        Detached(),
        reg=gradreg.SpectReg(1.0),
    )
    report = gradreg.check(Detached(), X, Y, REG)
    assert not report.ok
    assert "gradient is None or 0 for every parameter" in str(report)
    model.requires_grad_(False)
    assert gradreg.penalty(model, X, Y, REG).item() > 0  # a frozen model is measured, not trained


def test_named_activations(model: nn.Module) -> None:
    at = lambda name: gradreg.DataGrad(1.0, at=name)  # noqa: E731
    refuse(InputError, "no tap or layer '3' was passed .* Passed were: '0', '1', '2'. Name one", model, reg=at("3"))
    idle = nn.ModuleDict({"used": model, "unused": nn.Linear(1, 1)})
    idle.forward = idle["used"].forward  # type: ignore[method-assign]
    refuse(InputError, "no tap or layer 'unused' was passed .* Passed were: 'used.0'", idle, reg=at("unused"))
    shared = nn.Sequential(layer := nn.Linear(5, 5), nn.Tanh(), layer, nn.Linear(5, 3))
    refuse(InputError, "the place '0' is passed more than once .* '0#0', '0#1'", shared, reg=at("0"))
    assert gradreg.penalty(shared, X, Y, at("0#1")).item() > 0


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_layers_of_traced_and_scripted_modules(model: nn.Module) -> None:
    for made in (torch.jit.trace(model, X), torch.jit.script(model)):
        refuse(InputError, "layers inside a traced or scripted module cannot be seen", made, reg=gradreg.R1(1, at="0"))
    wanted = gradreg.penalty(model, X, Y, gradreg.DataGrad(1.0, at="0"))  # the module that it was made from
    head = gradreg.penalty(torch.jit.script(model[1:]), model[0](X), Y, gradreg.DataGrad(1.0))  # the head
    torch.testing.assert_close(head, wanted)


class Writing(nn.Module):
    """Writes into what it is called with."""

    def __init__(self, write: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.write = nn.Linear(5, 3), write

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.write(x)
        return self.layer(x)


def clamped_aside(x: torch.Tensor) -> None:
    with torch.no_grad():
        x.clamp_(-0.5, 0.5)


WRITES = [
    torch.relu_,
    nn.ReLU(inplace=True),
    lambda x: x[:, 0].fill_(0.0),
    lambda x: x.view(-1).mul_(2.0),
    lambda x: nn.functional.dropout(x, 0.5, True, True),
    clamped_aside,
]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("side", ["output", "input"])
def test_models_that_write_into_their_input(write: Callable[[torch.Tensor], Any], side: Any) -> None:
    writing, reg = Writing(write), JacobianPenalty(1.0, projection=gradreg.gaussian(), side=side)
    for x in (X.clone(), X.clone().requires_grad_(), X.clone().requires_grad_() * 1.0):
        refuse(InputError, r"the model writes into its input.* copy the input: lambda x: model", writing, x=x, reg=reg)
        assert not gradreg.check(writing, x.detach(), Y, reg).ok
    torch.manual_seed(1)
    copied = gradreg.penalty(lambda x: writing(x.clone()), X.clone(), Y, reg)
    torch.manual_seed(1)

    def aside(x: torch.Tensor) -> torch.Tensor:
        write(copy := x * 1.0)
        return writing.layer(copy)

    torch.testing.assert_close(copied, gradreg.penalty(aside, X.clone(), Y, reg))


def test_sparse_inputs() -> None:
    layer = nn.Linear(5, 3)

    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.sparse.mm(x.to_sparse(), layer.weight.t()) + layer.bias

    refuse(InputTypeError, r"sparse tensors have no second derivative .* Pass x\.to_dense\(\)", model, x=X.to_sparse())
    dense = gradreg.loss(model, X.to_sparse().to_dense(), Y, REG)[0]
    torch.testing.assert_close(dense, gradreg.loss(layer, X, Y, REG)[0])


def test_complex_numbers(model: nn.Module) -> None:
    refuse(InputTypeError, "got Tensor of complex64. Return real arrays", lambda x: model(x) + 0j)
    total, _ = gradreg.loss(lambda x: (model(x) + 0j).real, X, Y, REG)  # what the message advises
    torch.testing.assert_close(total, gradreg.loss(model, X, Y, REG)[0])
    refuse(InputTypeError, "the input has dtype complex64", lambda x: model(x.real), x=X + 0j)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors(layout: torch.layout, model: nn.Module) -> None:
    rows = [X[:2], X[:3]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch: a prototype
        nested = torch.nested.nested_tensor(rows, layout=layout)
    refuse(InputTypeError, r"Pad it, torch\.nested\.to_padded_tensor.*position_weight", model, x=nested)
    padded = torch.nested.to_padded_tensor(nested, 0.0)
    weight = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    value = gradreg.penalty(model, padded, None, gradreg.FrobReg(1.0), position_weight=weight, class_axis=-1)
    assert value > 0


def test_numbers_of_eight_bits(model: nn.Module) -> None:
    small = X.to(torch.float8_e5m2)
    refuse(InputTypeError, "float8_e5m2, and only .* 16 bits or more", lambda x: model(x.float()), x=small)
    refuse(InputTypeError, "float8_e5m2", lambda x: model(x).to(torch.float8_e5m2))


class Recurrent(nn.Module):
    """Packs its input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = nn.LSTM(5, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.lstm(packed)[1][0][-1])


def test_packed_sequences() -> None:
    model, lengths = Recurrent(), torch.tensor([2, 3, 1])
    x = torch.linspace(-1, 1, 45).reshape(3, 3, 5)
    alone = pack_padded_sequence(x[:1], torch.tensor([3]), batch_first=True)  # one sample: all lengths are equal
    for packed in (alone, pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)):
        for given in (packed, gradreg.Inputs(packed), {"x": packed}):
            refuse(InputTypeError, r"PackedSequence.* x = gradreg\.Inputs\(padded, lengths\)", model.lstm, x=given)
    given = gradreg.Inputs(x, lengths)
    point = x.clone().requires_grad_()
    rows = [torch.autograd.grad(column.sum(), point, retain_graph=True)[0] for column in model(point, lengths).T]
    wanted = sum(float(row.square().sum()) for row in rows) / 3
    value = gradreg.penalty(model, given, None, gradreg.FrobReg(1.0)).item()
    assert value == pytest.approx(wanted, rel=1e-5)  # sums of float32
    assert gradreg.penalty(model, given, None, gradreg.SpectReg(1.0, fraction=0.5)) > 0

    def packing(x: torch.Tensor) -> Any:
        return model.lstm(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[0]

    refuse(InputTypeError, r"outputs=lambda packed: pad_packed_sequence", packing, x=x)
    padded = gradreg.measure(packing, x, outputs=lambda packed: pad_packed_sequence(packed, batch_first=True)[0])
    assert (padded.frobenius > 0).all()
