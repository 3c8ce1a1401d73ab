"""Nested inputs and `Inputs`, against double backward written by hand."""

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradreg_core
import gradreg_torch
from double_backward import equal_with_gradients
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.inputs import Arguments, Inputs, pack, unpack
from gradreg_core.presets import DataGrad, FrobReg, SpectReg, WeightDecay
from gradreg_torch.backend import TorchBackend

OPS = TorchBackend()
BATCH = 4
GENERATOR = torch.Generator().manual_seed(0)
IMAGE = torch.randn(BATCH, 2, 3, generator=GENERATOR, dtype=torch.float64)
CONDITION = torch.randn(BATCH, 2, generator=GENERATOR, dtype=torch.float64)
MASK = torch.tensor([[True, False], [True, True], [False, True], [True, True]])
Y = torch.tensor([0, 2, 1, 1])
Pair = namedtuple("Pair", ["image", "condition"])


class Conditional(nn.Module):
    """Logits of an image, a condition and a mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.image, self.condition, self.head = nn.Linear(6, 5), nn.Linear(2, 5), nn.Linear(5, 3)
        self.double()

    def forward(self, image: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        condition = condition if mask is None else condition * mask
        return self.head(torch.tanh(self.image(image.flatten(1)) + self.condition(condition)))


MODEL = Conditional()


def squared_norm(outputs: Tensor, *places: Tensor) -> Tensor:
    """mean_i ||J_i||_F^2 with respect to all of `places` together, by double backward."""
    total = torch.zeros((), dtype=torch.float64)
    for column in outputs.flatten(1).unbind(1):
        total = total + sum((g**2).sum() for g in torch.autograd.grad(column.sum(), places, create_graph=True))
    return total / len(outputs)


def require(*arrays: Tensor) -> list[Tensor]:
    return [array.detach().requires_grad_() for array in arrays]


def same(ours: Tensor, wanted: Tensor, model: nn.Module = MODEL) -> None:
    equal_with_gradients(ours, wanted, model)


STRUCTURES: dict[str, tuple[Any, Callable[[Any], Tensor]]] = {
    "dict": ({"image": IMAGE, "condition": CONDITION}, lambda x: MODEL(x["image"], x["condition"])),
    "tuple": ((IMAGE, CONDITION), lambda x: MODEL(*x)),
    "list": ([IMAGE, [CONDITION]], lambda x: MODEL(x[0], x[1][0])),
    "named tuple": (Pair(IMAGE, CONDITION), lambda x: MODEL(x.image, x.condition)),
    "nested": ({"a": {"b": (IMAGE,)}, "c": CONDITION}, lambda x: MODEL(x["a"]["b"][0], x["c"])),
    "arguments": (Inputs(IMAGE, CONDITION), MODEL),
    "keywords": (Inputs(condition=CONDITION, image=IMAGE), MODEL),
    "mask": (Inputs(IMAGE, CONDITION, mask=torch.ones_like(MASK)), MODEL),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_jacobian_is_with_respect_to_all_floating_arrays(name: str) -> None:
    x, model = STRUCTURES[name]
    image, condition = require(IMAGE, CONDITION)
    wanted = squared_norm(MODEL(image, condition), image, condition)
    same(gradreg_torch.penalty(model, x, None, FrobReg(1.0)), wanted)
    total, parts = gradreg_core.loss(model, x, Y, FrobReg(1.0))
    torch.testing.assert_close(parts.outputs, MODEL(IMAGE, CONDITION))
    torch.testing.assert_close(total - parts.loss, wanted)


@pytest.mark.parametrize(("wrt", "chosen"), [("0", (0,)), ("condition", (1,)), (("condition", "0"), (0, 1))])
def test_wrt_names_what_is_differentiated(wrt: Any, chosen: tuple[int, ...]) -> None:
    places = require(IMAGE, CONDITION)
    wanted = squared_norm(MODEL(*places, MASK), *(places[index] for index in chosen))
    same(
        gradreg_torch.penalty(MODEL, Inputs(IMAGE, condition=CONDITION, mask=MASK, wrt=wrt), None, FrobReg(1.0)), wanted
    )


def test_wrt_names_a_structure_as_a_whole() -> None:
    places = require(IMAGE, CONDITION)
    wanted = squared_norm(MODEL(*places), places[0])
    x = Inputs({"pixels": IMAGE}, CONDITION, wrt="0")
    same(gradreg_torch.penalty(lambda x, c: MODEL(x["pixels"], c), x, None, FrobReg(1.0)), wanted)


def test_the_gradient_of_the_loss_with_a_mask_that_is_not_differentiated() -> None:
    places = require(IMAGE, CONDITION)
    losses = nn.functional.cross_entropy(MODEL(*places, MASK), Y, reduction="none")
    gradients = torch.autograd.grad(losses.sum(), places, create_graph=True)
    wanted = sum((gradient**2).sum() for gradient in gradients) / BATCH
    same(gradreg_torch.penalty(MODEL, Inputs(IMAGE, CONDITION, MASK), Y, DataGrad(1.0)), wanted)


@pytest.mark.parametrize("side", ["output", "input"])
def test_everything_with_the_batch_axis_is_cut_with_the_samples(side: str) -> None:
    """A part of half the batch has the penalty of these samples alone, twice, and the loss stays that of the batch."""
    x, half = Inputs(IMAGE, CONDITION, mask=MASK), SpectReg(1.0, fraction=0.5, side=side)
    total, parts = gradreg_torch.loss(MODEL, x, Y, half)
    torch.testing.assert_close(parts.loss, nn.functional.cross_entropy(MODEL(IMAGE, CONDITION, MASK), Y))
    torch.testing.assert_close(parts.outputs, MODEL(IMAGE, CONDITION, MASK))
    alone = [
        gradreg_torch.penalty(
            MODEL,
            Inputs(IMAGE[i : i + 1], CONDITION[i : i + 1], MASK[i : i + 1]),
            None,
            SpectReg(1.0, side=side),
            sample_ids=torch.tensor([i]),
        )
        for i in range(BATCH)
    ]
    halves = {round((alone[i] + alone[j]).item() / 2, 10) for i in range(BATCH) for j in range(i)}
    assert round(parts.penalty[0].item(), 10) in halves
    assert total.requires_grad


def test_labels_of_any_structure_are_cut_with_the_samples() -> None:
    targets = {"wanted": torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)}

    def loss_fn(outputs: Tensor, y: dict[str, Tensor]) -> Tensor:
        return ((outputs - y["wanted"]) ** 2).sum(1)

    x = Inputs(IMAGE, CONDITION)
    _, parts = gradreg_torch.loss(MODEL, x, targets, DataGrad(1.0, fraction=0.5), loss_fn=loss_fn)
    torch.testing.assert_close(parts.loss, loss_fn(MODEL(IMAGE, CONDITION), targets).mean())
    places = require(IMAGE, CONDITION)
    gradients = torch.autograd.grad(loss_fn(MODEL(*places), targets).sum(), places)
    of_samples = sum((gradient.flatten(1) ** 2).sum(1) for gradient in gradients)
    halves = {round((of_samples[i] + of_samples[j]).item() / 2, 10) for i in range(BATCH) for j in range(i)}
    assert round(parts.penalty[0].item(), 10) in halves


@pytest.mark.parametrize(
    "y",
    [Y, Y.numpy(), Y.tolist(), (Y.numpy(),), {"a": Y.tolist(), "b": 1.0}, [Y, Y.tolist()]],
    ids=["tensor", "numpy", "list", "tuple", "dict", "both"],
)
def test_labels_are_cut_whatever_holds_them(y: Any) -> None:
    seen: list[Any] = []

    def loss_fn(outputs: Tensor, y: Any) -> Tensor:
        seen.append((outputs.detach(), y))
        return outputs.sum(1)

    order = MODEL(IMAGE, CONDITION)
    gradreg_torch.penalty(MODEL, Inputs(IMAGE, CONDITION), y, DataGrad(1.0, fraction=0.5), loss_fn=loss_fn)
    for outputs, part in seen:
        chosen = [int((order - row).abs().sum(1).argmin()) for row in outputs]
        held = part["a"] if isinstance(part, dict) else part[0] if isinstance(part, tuple | list) else part
        assert held.tolist() == Y[chosen].tolist()
        assert not isinstance(part, list) or part[1].tolist() == Y[chosen].tolist()


def test_inputs_of_two_dtypes_are_packed_in_the_wider() -> None:
    arrays = [IMAGE, CONDITION.float()]
    packed = pack(OPS, arrays)
    assert packed.dtype == torch.float64
    assert packed.shape == (BATCH, 8)
    for given, back in zip(arrays, unpack(OPS, packed, arrays), strict=True):
        assert torch.equal(given, back)
        assert given.dtype == back.dtype
    assert pack(OPS, [IMAGE]) is IMAGE


def test_values_that_are_no_arrays_are_passed_on() -> None:
    def model(x: Tensor, scale: float, flag: bool, mode: str, nothing: None) -> Tensor:
        assert (flag, mode, nothing) == (True, "mean", None)
        return scale * x.flatten(1)

    x = Inputs(IMAGE, 2.0, flag=True, mode="mean", nothing=None)
    assert float(gradreg_torch.penalty(model, x, None, FrobReg(1.0))) == 2.0**2 * 6


def test_tokens_alone_have_no_gradient_and_need_none_without_a_jacobian() -> None:
    tokens, table = torch.ones(BATCH, 2, dtype=torch.long), nn.Embedding(3, 2).double()
    model = nn.Sequential(table, nn.Flatten(), nn.Linear(4, 3).double())
    with pytest.raises(InputTypeError, match=r"penalty: the input has dtype int64.*named by at=.*gradreg.tap"):
        gradreg_torch.penalty(model, tokens, None, FrobReg(1.0))
    assert gradreg_torch.loss(model, tokens, Y, WeightDecay(1.0))[0].requires_grad


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (Inputs(IMAGE, CONDITION[:3]), r"x\['0'\] has shape \(4, 2, 3\) and x\['1'\] has shape \(3, 2\).*Close over"),
        ({"a": {"b": IMAGE}, "c": CONDITION[:1]}, r"x\['a.b'\] has shape .* and x\['c'\] has shape \(1, 2\)"),
        (Inputs(IMAGE, scale=torch.tensor(2.0)), r"x\['scale'\] must have a batch axis.*got shape \(\).*Close over"),
        (Inputs(IMAGE[:0]), r"x\['0'\] must have a batch axis with at least one sample"),
        (Inputs(IMAGE, wrt="mask"), r"wrt='mask' names no floating-point array: x has 0 \(float64\)"),
        (Inputs(IMAGE, mask=MASK, wrt="mask"), r"wrt='mask' names no floating-point array: it holds mask \(bool\)"),
        (Inputs(IMAGE, wrt=["0", "1"]), r"wrt='1' names no"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"penalty: .*{message}"):
        gradreg_torch.penalty(MODEL, x, None, FrobReg(1.0))


def test_two_arrays_of_one_path_are_refused() -> None:
    x = {"u.v": IMAGE, "u": {"v": CONDITION}}
    with pytest.raises(InputError, match=r"two arrays of x have the path 'u.v'. Rename a key"):
        gradreg_torch.penalty(lambda x: x["u.v"].flatten(1), x, None, FrobReg(1.0))


@pytest.mark.parametrize("x", [Inputs(IMAGE, CONDITION.numpy()), {"a": IMAGE, "b": CONDITION.numpy()}])
def test_arrays_of_another_library_are_refused(x: Any) -> None:
    with pytest.raises(InputTypeError, match=r"x\['.'\] must be an array of the torch backend, got numpy.ndarray"):
        gradreg_torch.penalty(MODEL, x, None, FrobReg(1.0))


@pytest.mark.parametrize("x", [Inputs(), {}, Inputs(None), "text"])
def test_an_input_without_arrays_is_refused(x: Any) -> None:
    with pytest.raises(InputTypeError, match="x must be an array of the torch backend"):
        gradreg_torch.penalty(MODEL, x, None, FrobReg(1.0))


def test_shared_arrays_are_closed_over() -> None:
    """The remedy of the message above, followed."""
    shared = torch.tensor(2.0, dtype=torch.float64)
    penalty = gradreg_torch.penalty(lambda x: shared * x.flatten(1), Inputs(IMAGE), None, FrobReg(1.0))
    assert float(penalty) == 2.0**2 * 6


def test_the_input_comes_back_as_it_was_passed() -> None:
    arguments = Arguments.of(OPS, "test", Inputs(IMAGE, condition=CONDITION, wrt="condition"))
    x = arguments.as_passed(arguments.packed())
    assert x.wrt == ("condition",)
    assert torch.equal(x.args[0], IMAGE)
    assert torch.equal(x.kwargs["condition"], CONDITION)
    assert repr(Inputs(1, a=2, wrt="a")) == "Inputs(1, a=2, wrt=('a',))"
