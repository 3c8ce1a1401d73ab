"""The host's share of a call: calls of Python, operations that are launched, and what waits for a device."""

import gc
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradreg_torch as gradreg
from gradreg_torch import eager, second_derivatives
from gradreg_torch.backend import TorchBackend
from gradreg_torch.calls import calls
from gradreg_torch.eager import EagerBackend

X, Y = torch.linspace(-1, 1, 32).reshape(4, 8), torch.tensor([0, 1, 2, 3])
NOISE = torch.linspace(-1, 1, 16).reshape(4, 4)
SPECT, DATA = gradreg.SpectReg(0.01), gradreg.DataGrad(50.0)


def network(device: str = "cpu") -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).to(device)


def by_hand(model: nn.Module, reg: Any, x: Tensor, y: Tensor) -> Tensor:
    """The same computation, without gradreg."""
    if reg is None:
        return F.cross_entropy(model(x), y)
    point = x.detach().requires_grad_()
    z = model(point)
    losses = F.cross_entropy(z, y, reduction="none")
    if reg is DATA:
        (gradient,) = torch.autograd.grad(losses.sum(), point, create_graph=True)
        return losses.mean() + 50.0 * (gradient * gradient).sum() / 4
    (gradient,) = torch.autograd.grad(z, point, NOISE.to(x.device), create_graph=True)
    return losses.mean() + 0.01 * (gradient * gradient).sum() / 4


def python_calls(run: Callable[[], Any]) -> int:
    """The calls of Python functions that the interpreter makes; C functions do not count.

    The garbage collector is off: libraries have it call functions of theirs, whenever it happens to run.
    """
    for _ in range(3):
        run()
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    gc.disable()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


class _Launched(TorchDispatchMode):
    """Counts the operations that compute, by name; views and detached copies of a handle launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def launched(run: Callable[[], Any]) -> Counter[str]:
    with _Launched() as mode:
        run()
    return mode.names


# Measured 86, 101, 168 and 172 with PyTorch 2.13 on Python 3.11; the rest is for other versions of both.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("reg", "step", "most"),
    [(None, 1, 105), (SPECT.lazy(), 1, 120), (SPECT, 5, 195), (DATA, 5, 200)],
    ids=["none", "not due", "SpectReg", "DataGrad"],
)
def test_a_call_makes_few_calls_of_python(reg: Any, step: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may have been compiled before in this process: then each graph is searched."""
    monkeypatch.delitem(sys.modules, second_derivatives._COMPILER, raising=False)
    model = network()
    bare = None if step == 1 else reg
    own = python_calls(lambda: gradreg.loss(model, X, Y, reg, step=step))
    assert own - python_calls(lambda: by_hand(model, bare, X, Y)) <= most


@pytest.mark.slow
def test_the_number_of_calls_does_not_grow_with_the_modules() -> None:
    """But for those of the modules themselves, and PyTorch's own when a function mode is on."""
    counts = []
    for depth in (1, 21):
        model = nn.Sequential(nn.Linear(8, 8), *(nn.Identity() for _ in range(depth)), nn.Linear(8, 4))
        own = python_calls(lambda model=model: gradreg.loss(model, X, Y, None))
        counts.append(own - python_calls(lambda model=model: by_hand(model, None, X, Y)))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("reg", [None, SPECT, DATA], ids=["none", "SpectReg", "DataGrad"])
def test_the_same_operations_are_launched_as_by_hand(reg: Any) -> None:
    """On the CPU, where the draws are NumPy's. A call may have a few small ones more, never a product of matrices."""
    model = network()
    for _ in range(2):
        gradreg.loss(model, X, Y, reg, step=1)
    own = launched(lambda: gradreg.loss(model, X, Y, reg, step=2))
    bare = launched(lambda: by_hand(model, reg, X, Y))
    for product in ("mm", "addmm", "threshold_backward", "relu", "nll_loss_forward", "_log_softmax"):
        assert own[product] == bare[product], product
    assert own.total() <= bare.total() + 10


def test_a_step_that_is_not_due_launches_what_a_plain_step_does() -> None:
    model = network()
    own = launched(lambda: gradreg.loss(model, X, Y, SPECT.lazy(), step=1))
    bare = launched(lambda: by_hand(model, None, X, Y))
    assert own.total() <= bare.total() + 3


def test_draws_on_a_device_take_few_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host draws and copies once; of many numbers the device draws, in 160 operations, and the same ones."""
    model, x, y = network("meta"), X.to("meta"), Y.to("meta")

    def more_than_by_hand(reg: Any) -> int:
        own = launched(lambda: gradreg.loss(model, x, y, reg, step=8)).total()
        return own - launched(lambda: by_hand(model, reg, x, y)).total()

    assert more_than_by_hand(SPECT) <= more_than_by_hand(None) + 10
    monkeypatch.setattr(eager, "_MOST_FROM_HOST", 0)
    assert more_than_by_hand(SPECT) > more_than_by_hand(None) + 100


@pytest.mark.parametrize("reg", [None, SPECT, DATA, SPECT + DATA, SPECT.lazy()], ids=repr)
def test_nothing_waits_for_the_device(reg: Any) -> None:
    """On the meta device nothing can be read: `item`, `bool` and `numpy` raise."""
    model = network("meta")
    x, y = X.to("meta"), Y.to("meta")
    total, parts = gradreg.loss(model, x, y, reg, step=8)
    total.backward()
    assert total.device.type == "meta"
    assert all(penalty.device.type == "meta" for penalty in parts.penalty)


def test_the_graph_is_looked_at_once_where_only_an_optimizer_has_imported_the_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Adam imports torch._dynamo; then the graph was searched in every call."""
    model, looked, behind = network(), [], second_derivatives._behind
    torch.optim.Adam(model.parameters())
    monkeypatch.delitem(sys.modules, second_derivatives._COMPILER, raising=False)
    monkeypatch.setattr(second_derivatives, "_behind", lambda node: looked.append(node) or behind(node))
    for step in range(3):
        gradreg.loss(model, X, Y, SPECT, step=step)
    assert "torch._dynamo" in sys.modules
    assert len(looked) == 1


def test_a_subclass_of_the_backend_keeps_its_own_primitives() -> None:
    class Other(TorchBackend):
        pass

    assert isinstance(calls.backend.for_call(), EagerBackend)
    other = Other()
    assert other.for_call() is other
    assert (
        torch.func.vmap(lambda x: torch.tensor(type(calls.backend.for_call()) is TorchBackend) * x)(X).sum() == X.sum()
    )
