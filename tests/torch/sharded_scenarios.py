"""Ways to share a model between ranks, each with the gradient of one process: called by distributed_step.py.

A scenario is made by all ranks, so that their collectives meet.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import gradreg_torch as gradreg
from gradreg_core.errors import UnsupportedError
from gradreg_core.spec import JacobianPenalty

TERMS = (
    gradreg.DataGrad(2.0)
    + gradreg.SpectReg(0.5, seed=3, projections=2)
    + gradreg.FrobReg(0.3)
    + gradreg.GradientPenalty(0.2)
    + gradreg.R1(0.1)
)
DECAY = TERMS + gradreg.WeightDecay(0.1)
"""Of one backward pass in each step: the decay of weights counts in every one."""
DIFFERENCE = JacobianPenalty(1.0, projection=gradreg.gaussian(), side="input", method="difference")
BATCH = 11


class Tied(nn.Module):
    """Two layers of one weight, and a head that may be frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = (nn.Linear(5, size).double() for size in (5, 5, 3))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).tanh()).tanh())


class Nested(nn.Module):
    """Blocks in a block; with `recomputed`, by a checkpoint."""

    def __init__(self, recomputed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(5, 8), nn.Sequential(nn.Tanh(), nn.Linear(8, 4)), nn.Tanh()).double()
        self.head = nn.Linear(4, 3).double()
        self.recomputed = recomputed

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.inner, x, use_reentrant=False) if self.recomputed else self.inner(x))


class Positions(Nested):
    """Outputs at four positions."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 12).double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unflatten(1, (4, 3))


class Recorded(torch.autograd.Function):
    """The identity, which keeps the directions that are pulled back through it."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, kept: list[Tensor]) -> Tensor:
        ctx.kept = kept
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *w: Tensor) -> tuple[Tensor, None]:
        ctx.kept.append(w[0].detach().clone())
        return w[0], None


def frozen(model: Any) -> Any:
    model.head.requires_grad_(False)
    return model


def sharded(model: Any, mesh: DeviceMesh, **options: Any) -> Any:
    """The inner block's last linear layer, the inner block, and the rest."""
    if isinstance(model, Nested):
        fully_shard(model.inner[1], mesh=mesh, **options)
        fully_shard(model.inner, mesh=mesh, **options)
    else:
        fully_shard(model.head, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def whole(gradient: Any, parameter: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros(parameter.shape, dtype=torch.float64)
    return getattr(gradient, "full_tensor", lambda: gradient)().detach().double()


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([whole(p.grad, p).flatten() for p in model.parameters()])


class Scenarios:
    """The results: (penalties and gradients, those of one process), or the message of a refusal."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.pair = dist.new_group([0, 1])
        self.mesh, self.square = (
            init_device_mesh("cpu", (4,)),
            init_device_mesh("cpu", (2, 2), mesh_dim_names=("copy", "shard")),
        )
        torch.manual_seed(5)
        self.x, self.y = torch.randn(BATCH, 5).double(), torch.randint(3, (BATCH,))
        self.weight = torch.rand(BATCH).double()
        self.of_positions = torch.randint(3, (BATCH, 4)), torch.rand(BATCH, 4).double() * (torch.rand(BATCH, 4) > 0.3)
        self.results: dict[str, Any] = {}

    def loss(self, model: Any, ids: Tensor, parts: float, reg: Any) -> Tensor:
        y, whole = self.y, torch.tensor(float(BATCH))
        options: dict[str, Any] = {"sample_ids": ids, "sample_weight": self.weight[ids]}
        if isinstance(getattr(model, "module", model), Positions):
            y, position_weight = self.of_positions
            whole = (position_weight.sum(1) * self.weight).sum()
            options |= {"position_weight": position_weight[ids], "class_axis": -1}
        return gradreg.loss(model, self.x[ids], y[ids], reg, step=4, normalizer=whole / parts, **options)[0]

    def directions(self, ids: Tensor, term: Any, positions: bool) -> dict[int, Tensor]:
        """The rows of W of each sample that is penalised, by its number."""
        called: list[Tensor] = []
        kept: list[Tensor] = []
        net = Positions() if positions else Nested()

        def model(x: Tensor) -> Tensor:
            called.append(x.detach())
            return Recorded.apply(net(x), kept)  # type: ignore[no-any-return, no-untyped-call]

        options = {"position_weight": self.of_positions[1][ids], "class_axis": -1} if positions else {}
        gradreg.penalty(model, self.x[ids], None, term, step=4, sample_ids=ids, **options)
        numbers = [int((self.x == row).all(1).nonzero()) for row in called[-1]]
        return dict(zip(numbers, kept[-1], strict=True))

    def wanted(self, model: Any, reg: Any) -> Tensor:
        total = self.loss(model, torch.arange(BATCH), 1, reg)
        total.backward()
        return torch.cat([total.detach()[None], gradients(model)])

    def add(
        self, name: str, model: Any, alone: Any, micro: int = 1, size: int | None = None, group: Any = None
    ) -> None:
        """Two steps by `model`, each of `micro` parts of this rank's samples, beside one process with all."""
        size = size or self.size
        if self.rank < size:
            try:
                for _ in range(2):
                    model.zero_grad()
                    total = self.step(model, size, micro)
                dist.all_reduce(total, group=group)
                came = torch.cat([total[None] / size, gradients(model)])
                self.results[name] = (came, self.wanted(alone, DECAY if micro == 1 else TERMS))
            except UnsupportedError as error:
                self.results[name] = str(error)

    def step(self, model: Any, size: int, micro: int) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        pieces = torch.arange(BATCH)[self.rank :: size].tensor_split(micro)
        for index, ids in enumerate(pieces):
            last = index == len(pieces) - 1
            waiting = isinstance(model, DistributedDataParallel) and not last
            if hasattr(model, "set_requires_gradient_sync"):
                model.set_requires_gradient_sync(last)
            with model.no_sync() if waiting else nullcontext():
                part = self.loss(model, ids, size, DECAY if micro == 1 else TERMS)
                part.backward()
            total += part.detach()
        return total


def replicated(cases: Scenarios) -> None:
    def wrapped(model: nn.Module, **options: Any) -> DistributedDataParallel:
        return DistributedDataParallel(model, **options)

    cases.add("replicated, uneven", wrapped(Nested()), Nested())
    cases.add("replicated, accumulated", wrapped(Nested(), gradient_as_bucket_view=True), Nested(), micro=2)
    cases.add("replicated, tied and frozen", wrapped(frozen(Tied())), frozen(Tied()))
    cases.add("replicated, positions", wrapped(Positions()), Positions())
    cases.add("replicated, recomputed", wrapped(Nested(recomputed=True)), Nested())
    if cases.rank < 2:
        cases.add("replicated by two", wrapped(Nested(), process_group=cases.pair), Nested(), size=2, group=cases.pair)


def fully_sharded(cases: Scenarios) -> None:
    cases.add("sharded, uneven and nested", sharded(Nested(), cases.mesh), Nested())
    cases.add("sharded, accumulated", sharded(Nested(), cases.mesh), Nested(), micro=2)
    cases.add("sharded, kept after forward", sharded(Nested(), cases.mesh, reshard_after_forward=False), Nested())
    cases.add("sharded, tied and frozen", sharded(frozen(Tied()), cases.mesh), frozen(Tied()))
    cases.add("sharded, positions", sharded(Positions(), cases.mesh), Positions())
    cases.add("sharded, recomputed", sharded(Nested(recomputed=True), cases.mesh), Nested())
    cases.add("sharded in pairs", sharded(Nested(), cases.square), Nested())
    policy = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float64)
    model = fully_shard(Nested(), mesh=cases.mesh, mp_policy=replace(policy, output_dtype=torch.float64))
    cases.add("sharded, float32", model, Nested())


def draws(cases: Scenarios) -> None:
    """The directions of each sample, on one, two and four processes, are those of one process, bit for bit."""
    for size, fraction, positions in product((1, 2, 4), (1.0, 0.5), (False, True)):
        own = torch.arange(BATCH)[cases.rank :: size] if cases.rank < size else None
        term = gradreg.SpectReg(0.5, seed=3, fraction=fraction)
        drawn: list[Any] = [None] * cases.size
        dist.all_gather_object(drawn, {} if own is None else cases.directions(own, term, positions))
        came = {number: row for part in drawn for number, row in part.items()}
        assert len(came) == BATCH if fraction == 1 else BATCH / 2 < len(came) < BATCH
        whole = cases.directions(torch.arange(BATCH), replace(term, fraction=1.0), positions)
        wanted = torch.stack([whole[number] for number in came])
        name = f"draws of {size}, fraction={fraction}, {'positions' if positions else 'outputs'}"
        cases.results[name] = torch.stack(list(came.values())), wanted


def refused(cases: Scenarios) -> None:
    plan = {"inner.0": ColwiseParallel(), "inner.1.1": RowwiseParallel()}
    model = parallelize_module(Nested(), cases.mesh, plan)
    try:
        gradreg.penalty(model, cases.x, cases.y, TERMS, step=4)  # all ranks have all samples
    except UnsupportedError as error:
        cases.results["split layers"] = str(error)
    for owner in (model, alone := Nested()):
        gradreg.penalty(owner, cases.x, cases.y, DIFFERENCE, step=4).backward()
    cases.results["split layers: penalty by difference"] = (gradients(model), gradients(alone))
    model = sharded(Nested(), cases.mesh)
    try:
        gradreg.check(model, cases.x, cases.y, gradreg.SpectReg(1.0))
    except UnsupportedError as error:
        cases.results["checked, sharded"] = str(error)
    report = gradreg.check(DistributedDataParallel(Nested()), cases.x, cases.y, gradreg.SpectReg(1.0))
    seen = "DistributedDataParallel over 4 processes; only this one was checked."
    as_seen = report.notes == (seen,) and not report.findings
    cases.results["checked, replicated"] = (torch.tensor(as_seen), torch.tensor(True))
    static = DistributedDataParallel(Nested(), static_graph=True)
    report = gradreg.check(static, cases.x, cases.y, gradreg.SpectReg(1.0))
    cases.results["checked, static"] = f"{report.notes[0]} {report.findings[0].problem}"


SCENARIOS: tuple[Callable[[Scenarios], None], ...] = (replicated, fully_sharded, draws, refused)
