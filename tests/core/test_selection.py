"""Which outputs count, against double backward written by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradreg_torch
from double_backward import equal_with_gradients
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.presets import DataGrad, FrobReg, SpectReg

BATCH = 4
X = torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 2, 1, 1])


class Heads(nn.Module):
    """Two heads of unequal shapes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 8)
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.body(x))
        return self.first(h), self.second(h).reshape(-1, 2, 4)


HEADS = Heads()
RETURNED = {
    "an object with logits": (lambda x: SimpleNamespace(logits=HEADS(x)[0], hidden=HEADS(x)[1]), None),
    "a dict with logits": (lambda x: {"logits": HEADS(x)[0], "hidden": HEADS(x)[1]}, None),
    "a key": (lambda x: {"scores": HEADS(x)[0], "hidden": HEADS(x)[1]}, "scores"),
    "a position": (HEADS, 0),
    "a position as text": (HEADS, "0"),
    "a position from the end": (lambda x: HEADS(x)[::-1], -1),
    "a path": (lambda x: {"heads": [HEADS(x)[1], {"a": HEADS(x)[0]}]}, "heads.1.a"),
    "an attribute": (lambda x: SimpleNamespace(scores=HEADS(x)[0]), "scores"),
    "a function": (HEADS, lambda returned: returned[0]),
    "one of a list": (HEADS, [0]),
}


def squared_norm(model: Any, take: Any) -> Tensor:
    x = X.clone().requires_grad_()
    columns = take(model(x)).flatten(1).unbind(1)
    gradients = [torch.autograd.grad(column.sum(), x, create_graph=True)[0] for column in columns]
    return sum((gradient**2).sum() for gradient in gradients) / BATCH


def same(ours: Tensor, wanted: Tensor) -> None:
    equal_with_gradients(ours, wanted, HEADS)


@pytest.mark.parametrize("name", RETURNED)
def test_an_output_is_selected(name: str) -> None:
    model, outputs = RETURNED[name]
    wanted = squared_norm(HEADS, lambda returned: returned[0])
    same(gradreg_torch.penalty(model, X, None, FrobReg(1.0), outputs=outputs), wanted)
    if name != "one of a list":
        total, parts = gradreg_torch.loss(model, X, Y, FrobReg(1.0), outputs=outputs)
        same(total, nn.functional.cross_entropy(HEADS(X)[0], Y) + wanted)
        assert type(parts.outputs) is type(model(X))


def test_several_outputs_count_together() -> None:
    first, second = (squared_norm(HEADS, lambda returned, i=index: returned[i]) for index in range(2))
    same(gradreg_torch.penalty(HEADS, X, None, FrobReg(1.0), outputs=[0, 1]), first + second)
    measures = gradreg_torch.measure(HEADS, X, outputs=[0, 1])
    torch.testing.assert_close((measures.frobenius**2).mean(), (first + second).detach())


def test_the_loss_function_gets_the_list_of_several_outputs() -> None:
    def loss_fn(outputs: list[Tensor], y: Tensor) -> Tensor:
        first, second = outputs
        assert second.shape == (BATCH, 2, 4)
        return nn.functional.cross_entropy(first, y, reduction="none") + (second**2).sum((1, 2))

    x = X.clone().requires_grad_()
    losses = loss_fn(list(HEADS(x)), Y)
    (gradient,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    total, parts = gradreg_torch.loss(HEADS, X, Y, DataGrad(2.0), outputs=[0, 1], loss_fn=loss_fn)
    same(total, losses.mean() + 2.0 * (gradient**2).sum() / BATCH)
    torch.testing.assert_close(parts.outputs[1], HEADS(X)[1])


def test_all_that_the_model_returned_comes_back_where_a_part_is_penalised() -> None:
    returned = gradreg_torch.loss(HEADS, X, Y, SpectReg(1.0, fraction=0.5), outputs=0)[1].outputs
    for ours, wanted in zip(returned, HEADS(X), strict=True):
        torch.testing.assert_close(ours, wanted)


def test_an_object_that_nobody_can_open_may_be_returned_where_a_part_is_penalised() -> None:
    def model(x: Tensor) -> Any:
        return SimpleNamespace(logits=HEADS(x)[0])

    returned = gradreg_torch.loss(model, X, Y, SpectReg(1.0, fraction=0.5))[1].outputs
    torch.testing.assert_close(returned.logits, HEADS(X)[0])


@pytest.mark.parametrize(
    ("model", "outputs", "kind", "message"),
    [
        (
            HEADS,
            None,
            InputTypeError,
            r"got tuple. Say which output counts with outputs=.*'0' \(4, 3\), '1' \(4, 2, 4\)",
        ),
        (HEADS, "logits", InputError, r"outputs='logits' leads nowhere: there is no 'logits'.*It has '0' \(4, 3\)"),
        (HEADS, 2, InputError, r"outputs=2 leads nowhere"),
        (HEADS, "0.weights", InputError, "outputs='0.weights' leads nowhere: there is no 'weights'"),
        (lambda x: x.to(torch.complex128), None, InputTypeError, "complex128. Return real arrays"),
        (lambda x: x > 0, None, InputTypeError, "bool. Return the outputs before they are rounded"),
        (HEADS, True, InputTypeError, "outputs must be a function of what the model returns, a path"),
        (HEADS, [], InputTypeError, "outputs must be a function"),
        (HEADS, [0, None], InputTypeError, "outputs must be a function"),
        (
            lambda x: (x, x[:2]),
            [0, 1],
            InputError,
            "several outputs count together where all have the batch axis first",
        ),
    ],
)
def test_what_is_no_output_is_refused(model: Any, outputs: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"penalty: .*{message}"):
        gradreg_torch.penalty(model, X, None, FrobReg(1.0), outputs=outputs)


def test_several_outputs_have_no_classes() -> None:
    with pytest.raises(
        InputError, match="the cross-entropy loss needs classes, and several outputs that count together"
    ):
        gradreg_torch.loss(HEADS, X, Y, FrobReg(1.0), outputs=[0, 1])
