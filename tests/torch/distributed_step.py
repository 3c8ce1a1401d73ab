"""Steps on this rank's part of a batch by models that the ranks share: distributed_step.py SIZE FOLDER."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.nn.parallel import DistributedDataParallel

import gradreg_torch as gradreg
from gradreg_core.errors import UnsupportedError
from gradreg_core.spec import JacobianPenalty

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from sharded_scenarios import SCENARIOS, Scenarios  # noqa: E402

import ranks  # noqa: E402

LOSS_TERMS = gradreg.DataGrad(2.0) + gradreg.SpectReg(0.5, seed=3)
PENALTIES = {
    "on the loss": gradreg.DataGrad(2.0),
    "on the logits": gradreg.SpectReg(0.5, projections=2),
    "at a layer": gradreg.SpectReg(0.5, at="1"),
    "input side": JacobianPenalty(1.0, projection=gradreg.gaussian(), side="input"),
    "by difference": JacobianPenalty(1.0, projection=gradreg.gaussian(), side="input", method="difference"),
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def sharded() -> nn.Module:
    model = net()
    for index in (0, 2, 4):
        fully_shard(model[index])
    return fully_shard(model)


WRAPPED: dict[str, Callable[[], Any]] = {
    "replicated": lambda: DistributedDataParallel(net()),
    "unused looked for": lambda: DistributedDataParallel(net(), find_unused_parameters=True),
    "static": lambda: DistributedDataParallel(net(), static_graph=True),
    "sharded": sharded,
    "flattened": lambda: FullyShardedDataParallel(net(), use_orig_params=True, device_id=torch.device("cpu")),
    "flattened, whole": lambda: FullyShardedDataParallel(
        net(), use_orig_params=True, device_id=torch.device("cpu"), sharding_strategy=ShardingStrategy.NO_SHARD
    ),
}


def gradients(model: nn.Module) -> Tensor:
    """Those of all parameters, zeros for the ones that are not reached."""
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
            kept = [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]
    else:
        kept = [parameter.grad for parameter in model.parameters()]
    whole = [
        torch.zeros_like(parameter) if gradient is None else getattr(gradient, "full_tensor", lambda g=gradient: g)()
        for gradient, parameter in zip(kept, net().parameters(), strict=True)
    ]
    return torch.cat([gradient.detach().flatten() for gradient in whole])


class Cases:
    """The ranks' results beside those of one process with the whole batch."""

    def __init__(self, rank: int, size: int) -> None:
        torch.manual_seed(1)
        self.x, self.y = torch.randn(8, 5).double(), torch.randint(3, (8,))
        self.ids = torch.arange(8)[rank::size]
        self.results: dict[str, Any] = {}

    def step(self, call: Callable[..., Tensor], model: Any, ids: Tensor | None = None) -> Tensor:
        """The total of one call on this rank's samples, or on all."""
        chosen = slice(None) if ids is None else ids
        return call(model, self.x[chosen], self.y[chosen], sample_ids=ids)

    def wanted(self, call: Callable[..., Tensor]) -> Tensor:
        model = net()
        arrays = torch.autograd.grad(
            self.step(call, model), list(model.parameters()), allow_unused=True, materialize_grads=True
        )
        return torch.cat([array.flatten() for array in arrays])

    def add(self, name: str, wrapper: str, call: Callable[..., Tensor], plain_function: bool = False) -> None:
        """Two steps in a row, since some wrappers notice in the second that the first was not finished."""
        wanted = self.wanted(call)
        try:
            model = WRAPPED[wrapper]()
            for _ in range(2):
                model.zero_grad()
                self.step(call, (lambda x: model(x)) if plain_function else model, self.ids).backward()
            self.results[name] = (gradients(model), wanted)
        except UnsupportedError as error:
            self.results[name] = str(error)


def penalty(reg: Any) -> Callable[..., Tensor]:
    return lambda model, x, y, **options: gradreg.penalty(model, x, y, reg, step=4, **options)


def loss(model: Any, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return gradreg.loss(model, x, y, LOSS_TERMS, step=4, **options)[0]


def adversarial(model: Any, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """A critic's step: a penalty at x, its outputs elsewhere, and values for the record in between."""
    value = gradreg.penalty(model, x, y, gradreg.R1(1.0), step=4, **options)
    with torch.no_grad():
        gradreg.penalty(model, x, y, gradreg.SpectReg(1.0), step=4, **options)
    gradreg.measure(model, x)
    return value + model(0.5 * x).square().mean()


def trained(cases: Cases, wrapper: str) -> tuple[Tensor, Tensor]:
    """The outputs after two steps of an optimizer, by the wrapped model and by one process."""
    outputs = []
    for model, ids in ((WRAPPED[wrapper](), cases.ids), (net(), None)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            cases.step(loss, model, ids).backward()
            cases.step(penalty(gradreg.R1(1.0)), model, ids)  # a value that nobody differentiates
            optimizer.step()
        outputs.append(model(cases.x).detach())
    return outputs[0], outputs[1]


def main(rank: int, size: int, port: int, folder: Path) -> None:
    """Save rank 0's results by name: (gradients, those of one process), or the message of a refusal."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    cases = Cases(rank, size)
    for wrapper in WRAPPED:
        cases.add(f"{wrapper}: loss", wrapper, loss)
        for name, reg in PENALTIES.items():
            cases.add(f"{wrapper}: penalty {name}", wrapper, penalty(reg))
    for wrapper in ("replicated", "sharded"):
        cases.add(f"{wrapper}: a function", wrapper, penalty(PENALTIES["on the logits"]), plain_function=True)
        cases.results[f"{wrapper}: trained"] = trained(cases, wrapper)
    cases.add("sharded: a critic", "sharded", adversarial)
    scenarios = Scenarios()
    for scenario in SCENARIOS:
        scenario(scenarios)
    cases.results |= scenarios.results
    if rank == 0:
        torch.save(cases.results, folder / "results.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    ranks.fork(main)
