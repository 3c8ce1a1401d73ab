"""Digits in PyTorch: 100 labelled scans to train on, with and without a gradient regularizer.

Run: python examples/digits_torch.py
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

import gradreg_torch as gradreg


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Standardised scans (1797, 64) and labels (1797,), in a fixed random order."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32)[order]
    return (x - x.mean()) / x.std(), torch.tensor(labels)[order]


def train(reg: gradreg.Regularizer | None, x: torch.Tensor, y: torch.Tensor, steps: int, seed: int) -> nn.Module:
    """A network trained on all of x and y at each step."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(steps):
        total, _ = gradreg.loss(model, x, y, reg, step=step, seed=seed)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return model


def main(steps: int, seeds: int) -> dict[str, tuple[float, float]]:
    """(accuracy in percent, mean Jacobian norm) of each method on 797 other scans, as means over the seeds."""
    x, y = data()
    results = {}
    for name, reg in {"plain": None, "SpectReg": gradreg.SpectReg(3e-4)}.items():
        models = [train(reg, x[:100], y[:100], steps, seed) for seed in range(seeds)]
        accuracy = sum((model(x[1000:]).argmax(1) == y[1000:]).float().mean().item() for model in models) / seeds
        norm = sum(gradreg.measure(model, x[1000:]).frobenius.mean().item() for model in models) / seeds
        results[name] = 100 * accuracy, norm
        print(f"{name:10} accuracy {100 * accuracy:.1f} %   mean Jacobian norm {norm:.1f}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=4)
    main(**vars(parser.parse_args()))
