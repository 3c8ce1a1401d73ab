"""Generative adversarial networks on digits, with the critic penalised by WGAN-GP and by R1.

The distance is Fréchet's, between Gaussians fitted to 500 generated and 500 real scans of 64 pixels. Smaller is better.
The first line is the distance of real scans from other real scans.

Run: python examples/critics.py
"""

import argparse

import numpy as np
import torch
from scipy.linalg import sqrtm
from sklearn.datasets import load_digits
from torch import nn

import gradreg_torch as gradreg

softplus = nn.functional.softplus


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Fréchet's distance of two samples (N, 64)."""
    first, second = a.double().numpy(), b.double().numpy()
    shift = ((first.mean(0) - second.mean(0)) ** 2).sum()
    covariances = np.cov(first.T), np.cov(second.T)
    jitter = 1e-6 * np.eye(64)  # always empty pixels have no variance
    root = sqrtm((covariances[0] + jitter) @ (covariances[1] + jitter)).real
    return float(shift + np.trace(covariances[0] + covariances[1] - 2 * root))


def wasserstein(critic: nn.Module, real: torch.Tensor, fake: torch.Tensor, step: int) -> torch.Tensor:
    """The critic's loss of WGAN-GP (Gulrajani et al. 2017), penalised between real and generated scans."""
    share = torch.rand(len(real), 1)
    between = share * real + (1 - share) * fake
    penalty = gradreg.penalty(critic, between, None, gradreg.GradientPenalty(10.0), step=step)
    return critic(fake).mean() - critic(real).mean() + penalty


def logistic(critic: nn.Module, real: torch.Tensor, fake: torch.Tensor, step: int) -> torch.Tensor:
    """The critic's logistic loss with R1 (Mescheder et al. 2018), penalised at real scans at every fourth step."""
    penalty = gradreg.penalty(critic, real, None, gradreg.R1(1.0, every=4), step=step)
    return softplus(critic(fake)).mean() + softplus(-critic(real)).mean() + penalty


CRITICS = {
    "WGAN-GP": (wasserstein, lambda scores: -scores.mean()),
    "R1": (logistic, lambda scores: softplus(-scores).mean()),
}
"""The critic's loss, and the generator's loss from the critic's scores."""


def train(method: str, x: torch.Tensor, steps: int, seed: int) -> nn.Module:
    """A generator of scans."""
    torch.manual_seed(seed)
    generator = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64))
    critic = nn.Sequential(
        nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1)
    )
    optimizers = [torch.optim.Adam(model.parameters(), 1e-3, (0.5, 0.9)) for model in (generator, critic)]
    critic_loss, generator_loss = CRITICS[method]
    for step in range(steps):
        real, noise = x[torch.randint(len(x), (64,))], torch.randn(64, 16)
        optimizers[1].zero_grad()
        critic_loss(critic, real, generator(noise).detach(), step).backward()
        optimizers[1].step()
        if step % 2 == 0:
            optimizers[0].zero_grad()
            generator_loss(critic(generator(noise))).backward()
            optimizers[0].step()
    return generator


def main(steps: int, seed: int) -> dict[str, float]:
    """Fréchet's distance per method, before training ("untrained") and between real scans ("real")."""
    images, _ = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32) / 8 - 1
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    noise = torch.randn(500, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        results = {
            "real": distance(x[:500], x[500:1000]),
            "untrained": distance(train("R1", x, 0, seed)(noise), x[:500]),
        }
    for name in CRITICS:
        generator = train(name, x, steps, seed)
        with torch.no_grad():
            results[name] = distance(generator(noise), x[:500])
    for name, value in results.items():
        print(f"{name:10} {value:6.2f}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
