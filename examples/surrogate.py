"""A surrogate of a physical energy, trained with and without its derivatives.

The system is a cluster of four atoms in the plane with Lennard-Jones forces. A simulation gives energies and, at no
further cost, forces: the negative gradient of the energy with respect to the coordinates. `SobolevReg` fits the
network's Jacobian to them (Czarnecki et al., Sobolev Training for Neural Networks, 2017).

Run: python examples/surrogate.py
"""

import argparse

import torch
from torch import nn

import gradreg_torch as gradreg

ATOMS = 4
PAIRS = torch.combinations(torch.arange(ATOMS), 2)


def energy(x: torch.Tensor) -> torch.Tensor:
    """Energies (B, 1) of coordinates (B, 8), in units of the well's depth."""
    atoms = x.unflatten(1, (ATOMS, 2))
    squared = ((atoms[:, PAIRS[:, 0]] - atoms[:, PAIRS[:, 1]]) ** 2).sum(-1)
    sixth = squared**-3
    return (4 * (sixth**2 - sixth)).sum(1, keepdim=True)


def samples(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Displacements (B, 8) from a rhombus at its lowest energy, energies above it (B, 1), their Jacobian (B, 1, 8).

    Displacements are in units of their standard deviation, 0.05 distances of the pair potential.
    """
    generator = torch.Generator().manual_seed(seed)
    side = 2 ** (1 / 6)
    corners = side * torch.tensor([[0, 0], [1, 0], [0.5, 0.75**0.5], [1.5, 0.75**0.5]]).flatten()
    x = torch.randn(count, 2 * ATOMS, generator=generator, requires_grad=True)
    values = energy(corners + 0.05 * x) - energy(corners[None])
    (slopes,) = torch.autograd.grad(values.sum(), x)
    return x.detach(), values.detach(), slopes[:, None]


def train(reg: gradreg.Regularizer | None, count: int, steps: int, seed: int) -> nn.Module:
    """A network trained on `count` configurations."""
    x, values, slopes = samples(count, seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2 * ATOMS, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    squared_error = nn.MSELoss(reduction="none")
    target = None if reg is None else slopes
    for step in range(steps):
        total, _ = gradreg.loss(model, x, values, reg, step=step, loss_fn=squared_error, target=target)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
    return model


def errors(model: nn.Module) -> tuple[float, float]:
    """Root mean squared errors of energies and of the components of forces, on 1,000 other configurations."""
    x, values, slopes = samples(1000, seed=10**6)
    x.requires_grad_()
    predicted = model(x)
    (forces,) = torch.autograd.grad(predicted.sum(), x)
    wrong = (predicted - values).pow(2).mean().sqrt().item()
    return wrong, (forces - slopes[:, 0]).pow(2).mean().sqrt().item()


def main(steps: int, seeds: int) -> dict[tuple[str, int], tuple[float, float]]:
    """(error of energies, error of forces) per method and number of training points, as means over the seeds."""
    results = {}
    print(f"{'points':>8}  {'method':12}{'energies':>10}{'forces':>10}")
    for count in (50, 200):
        for name, reg in {"energies": None, "with forces": gradreg.SobolevReg(1.0)}.items():
            runs = torch.tensor([errors(train(reg, count, steps, seed)) for seed in range(seeds)]).mean(0)
            results[name, count] = runs[0].item(), runs[1].item()
            print(f"{count:8}  {name:12}{runs[0]:10.3f}{runs[1]:10.2f}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    main(**vars(parser.parse_args()))
