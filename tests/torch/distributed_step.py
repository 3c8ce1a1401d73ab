"""One step of DistributedDataParallel on this rank's part of a batch: distributed_step.py RANK SIZE PORT FOLDER."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import gradreg_torch as gradreg

REG = gradreg.DataGrad(2.0) + gradreg.SpectReg(0.5, seed=3)


def main(rank: int, size: int, port: int, folder: Path) -> None:
    """Save the ranks' averaged gradients, and those of the whole batch in one process."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.randn(6, 5).double(), torch.randint(3, (6,))
    parallel = nn.parallel.DistributedDataParallel(model)
    ids = torch.arange(6)[rank::size]
    total, _ = gradreg.loss(parallel, x[ids], y[ids], REG, step=4, sample_ids=ids)
    total.backward()
    if rank == 0:
        torch.save([parameter.grad for parameter in model.parameters()], folder / "gradients.pt")
        whole, _ = gradreg.loss(model, x, y, REG, step=4)
        gradients = torch.autograd.grad(whole, list(model.parameters()))
        torch.save(torch.cat([gradient.flatten() for gradient in gradients]), folder / "wanted.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
