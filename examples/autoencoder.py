"""A contractive autoencoder of digits: how well its code predicts the class, with and without input noise.

The penalty is on the code's Jacobian with respect to the input (Rifai et al., Contractive Auto-Encoders, 2011). The
autoencoders see 1,400 scans without labels. A nearest-neighbour classifier then learns from the codes of 100 of them.

Run: python examples/autoencoder.py
"""

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import gradreg_torch as gradreg


class Autoencoder(nn.Module):
    """64 pixels to a code of 16, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(gradreg.tap("code", self.encoder(x)))


def squared_error(outputs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The loss per sample."""
    return ((outputs - x) ** 2).sum(1)


def train(reg: gradreg.Regularizer | None, x: torch.Tensor, steps: int, seed: int) -> Autoencoder:
    """An autoencoder trained on random batches of 100."""
    torch.manual_seed(seed)
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        batch = x[torch.randint(len(x), (100,))]
        total, _ = gradreg.loss(model, batch, batch, reg, step=step, seed=seed, loss_fn=squared_error)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return model


def main(steps: int, seeds: int) -> dict[str, dict[str, float]]:
    """Per method: reconstruction error, norm of the code's Jacobian, accuracy in percent on clean and noisy scans."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(images, dtype=torch.float32)[order], labels[order.numpy()]
    x = (x - x.mean()) / x.std()
    noisy = x[1400:] + torch.randn(x[1400:].shape, generator=torch.Generator().manual_seed(1))
    results: dict[str, dict[str, float]] = {}
    print(f"{'':13}{'error':>8}{'norm':>8}{'accuracy, %':>14}{'with noise, %':>16}")
    for name, reg in {"plain": None, "contractive": gradreg.SpectReg(1.0, of="code")}.items():
        sums = torch.zeros(4)
        for seed in range(seeds):
            model = train(reg, x[:1400], steps, seed)
            with torch.no_grad():
                codes = [model.encoder(part).numpy() for part in (x[:100], x[1400:], noisy)]
                error = squared_error(model(x[1400:]), x[1400:]).mean()
            neighbours = KNeighborsClassifier(3).fit(codes[0], y[:100])
            clean, rough = (100 * neighbours.score(part, y[1400:]) for part in codes[1:])
            norm = gradreg.measure(model.encoder, x[1400:]).frobenius.mean()
            sums += torch.tensor([error, norm, clean, rough])
        error, norm, clean, rough = (sums / seeds).tolist()
        results[name] = {"error": error, "norm": norm, "accuracy": clean, "noisy": rough}
        print(f"{name:13}{error:8.1f}{norm:8.2f}{clean:14.1f}{rough:16.1f}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    main(**vars(parser.parse_args()))
