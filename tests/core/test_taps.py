"""Jacobians between any two places of a network, against double backward written by hand."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradreg_torch
from double_backward import equal_with_gradients
from gradreg_core.errors import InputError
from gradreg_core.presets import FrobReg, SpectReg
from gradreg_core.taps import tap
from minimal_backend import CALLS

BATCH = 3
X = torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Autoencoder(nn.Module):
    """A code and a reconstruction; its place "code" is a tap, "encoder" and "decoder" are modules."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encoder, self.decoder = nn.Linear(5, 3), nn.Linear(3, 5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        code = tap("code", torch.tanh(self.encoder(x)))
        return self.decoder(tap("twice", tap("twice", code)))


MODEL = Autoencoder()


def squared_norm(of: Tensor, at: Tensor) -> Tensor:
    gradients = [torch.autograd.grad(column.sum(), at, create_graph=True)[0] for column in of.flatten(1).unbind(1)]
    return sum((gradient**2).sum() for gradient in gradients) / len(of)


def places() -> dict[str | None, Tensor]:
    x = X.clone().requires_grad_()
    hidden = MODEL.encoder(x)
    code = torch.tanh(hidden)
    outputs = MODEL.decoder(code)
    return {
        "x": x,
        "encoder": hidden,
        "code": code,
        "twice#0": code,
        "twice#1": code,
        "decoder": outputs,
        None: outputs,
    }


def same(ours: Tensor, wanted: Tensor, model: nn.Module = MODEL) -> None:
    equal_with_gradients(ours, wanted, model)


TAPS = [(None, "code"), ("code", None), (None, "twice#1"), ("twice#0", None)]
MODULES = [("encoder", None), (None, "encoder"), ("code", "encoder"), ("decoder", "code"), ("decoder", None)]


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize(("of", "at"), TAPS)
def test_any_two_taps_have_a_jacobian(calls: str, of: str | None, at: str | None) -> None:
    values = places()
    wanted = squared_norm(values[of], values["x" if at is None else at])
    same(CALLS[calls].penalty(MODEL, X, None, FrobReg(1.0, of=of, at=at)), wanted)


@pytest.mark.parametrize(("of", "at"), MODULES)
@pytest.mark.parametrize("wrapped", [False, True])
def test_modules_are_places_by_their_names(of: str | None, at: str | None, wrapped: bool) -> None:
    values = places()
    wanted = squared_norm(values[of], values["x" if at is None else at])
    model: Any = (lambda x: MODEL(x)) if wrapped else MODEL
    same(gradreg_torch.penalty(model, X, None, FrobReg(1.0, of=of, at=at)), wanted)


@pytest.mark.slow
@pytest.mark.parametrize(("of", "at"), TAPS)
def test_taps_under_compile(of: str | None, at: str | None) -> None:
    torch._dynamo.reset()
    reg = FrobReg(1.0, of=of, at=at)
    compiled = torch.compile(
        lambda x: gradreg_torch.penalty(MODEL, x, None, reg, step=0), fullgraph=True, backend="aot_eager"
    )
    values = places()
    same(compiled(X), squared_norm(values[of], values["x" if at is None else at]))


def test_a_contractive_autoencoder_in_one_pass() -> None:
    calls = []
    handle = MODEL.encoder.register_forward_hook(lambda *_: calls.append(1))
    total, parts = gradreg_torch.loss(
        MODEL, X, X, FrobReg(0.1, of="code") + SpectReg(0.2, at="code"), loss_fn=lambda z, y: ((z - y) ** 2).sum(1)
    )
    handle.remove()
    assert len(calls) == 1
    values = places()
    reconstruction = ((values[None] - X) ** 2).sum(1).mean()
    same(parts.loss, reconstruction)
    same(parts.penalty[0], 0.1 * squared_norm(values["code"], values["x"]))
    same(total - parts.penalty[1], reconstruction + 0.1 * squared_norm(values["code"], values["x"]))


def test_a_tap_is_the_identity_outside_of_a_call() -> None:
    assert tap("h", X) is X
    gradreg_torch.penalty(MODEL, X, None, FrobReg(1.0, of="code"))
    assert tap("h", X) is X


def test_a_tap_is_the_identity_after_an_error() -> None:
    def failing(x: Tensor) -> Tensor:
        tap("code", x)
        raise RuntimeError("of the model")

    with pytest.raises(RuntimeError, match="of the model"):
        gradreg_torch.penalty(failing, X, None, FrobReg(1.0, of="code"))
    assert tap("code", X) is X


def test_other_threads_pass_no_places_of_this_one() -> None:
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        thread = threading.Thread(target=lambda: seen.append(MODEL(X)))
        thread.start()
        thread.join()
        return MODEL(x)

    values = places()
    same(
        gradreg_torch.penalty(model, X, None, FrobReg(1.0, of="code", at="encoder")),
        squared_norm(values["code"], values["encoder"]),
    )
    torch.testing.assert_close(seen[0], MODEL(X))


class Recurrent(nn.Module):
    """A module that returns a tuple, one that is called twice, one behind a frozen embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embedding = nn.Embedding(7, 4).requires_grad_(requires_grad=False)
        self.rnn, self.shared, self.head = nn.GRU(4, 4, batch_first=True), nn.Linear(4, 4), nn.Linear(4, 2)
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.rnn(self.embedding(tokens))
        return self.head(torch.tanh(self.shared(torch.tanh(self.shared(states))))[:, -1])


TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6], [0, 1, 0]])


@pytest.mark.parametrize("at", ["embedding", "rnn", "rnn[0]", "shared#0", "shared#1"])
def test_integer_tokens_tuples_and_repeated_modules(at: str) -> None:
    model = Recurrent()
    embedded = model.embedding(TOKENS).requires_grad_()
    states = model.rnn(embedded)[0]
    first = model.shared(states)
    second = model.shared(torch.tanh(first))
    outputs = model.head(torch.tanh(second)[:, -1])
    place = {"embedding": embedded, "rnn": states, "rnn[0]": states, "shared#0": first, "shared#1": second}[at]
    same(gradreg_torch.penalty(model, TOKENS, None, FrobReg(1.0, at=at)), squared_norm(outputs, place), model)


@pytest.mark.parametrize(
    ("reg", "message"),
    [
        (FrobReg(1.0, at="nowhere"), "no tap or layer 'nowhere' was passed.*Passed were: .*'code'"),
        (FrobReg(1.0, of="encoder", at="code"), "of='encoder' is passed before at='code'.*Swap them"),
        (FrobReg(1.0, of="code", at="code"), "of='code' is passed before at='code'"),
        (FrobReg(1.0, at="twice"), "the place 'twice' is passed more than once.*'twice#0', 'twice#1'"),
        (FrobReg(1.0, at="twice#2"), "no tap or layer 'twice#2' was passed"),
        (FrobReg(1.0, at="code[0]"), r"a tap marks one array, so it takes no \[0\]"),
        (FrobReg(1.0, at="encoder[3]"), r"what is returned there holds one array, and no '3'"),
    ],
)
def test_places_that_do_not_fit_are_refused(reg: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        gradreg_torch.penalty(MODEL, X, None, reg)


@pytest.mark.parametrize("name", ["h#1", "h[0]", "h]", 3])
def test_the_name_of_a_tap_has_no_signs_that_tell_its_calls_apart(name: Any) -> None:
    assert tap(name, X) is X
    with pytest.raises(InputError, match="tap: a name is text without"):
        gradreg_torch.penalty(lambda x: tap(name, x), X, None, FrobReg(1.0, at="h"))


@pytest.mark.parametrize("value", [TOKENS, None, "text"])
def test_a_place_holds_floats(value: Any) -> None:
    def model(x: Tensor) -> Tensor:
        tap("h", value)
        return x

    with pytest.raises(InputError, match="'h': a place must hold a tensor of a floating-point type, got "):
        gradreg_torch.penalty(model, X, None, FrobReg(1.0, at="h"))


def test_a_place_without_the_batch_axis_is_refused() -> None:
    def model(x: Tensor) -> Tensor:
        return tap("time", x.t()).t()

    with pytest.raises(InputError, match=r"the place 'time' has shape \(5, 3\), and.*3 samples"):
        gradreg_torch.penalty(model, X, None, FrobReg(1.0, of="time"))
    with pytest.raises(InputError, match="the place 'time' has shape"):
        gradreg_torch.penalty(model, X, None, FrobReg(1.0, at="time"))
