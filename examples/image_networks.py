"""Networks of the transformers library on small images: a residual network with batch normalisation, and ConvNeXt.

Batch normalisation couples the samples of a batch, so a sample has no separate Jacobian: gradreg warns.
ConvNeXt has layer normalisation, which does not couple them.

Run: python examples/image_networks.py
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import ConvNextConfig, ConvNextForImageClassification, ResNetConfig, ResNetForImageClassification

import gradreg_torch as gradreg

SHAPE = {"num_channels": 1, "num_labels": 10, "hidden_sizes": [16, 32], "depths": [1, 1]}


def network(name: str, seed: int) -> nn.Module:
    """A small network for images (B, 1, 16, 16), from its configuration."""
    torch.manual_seed(seed)
    if name == "ResNet":
        return ResNetForImageClassification(ResNetConfig(**SHAPE, embedding_size=16, layer_type="basic"))
    return ConvNextForImageClassification(
        ConvNextConfig(**SHAPE, num_stages=2, patch_size=2, layer_scale_init_value=1.0)
    )


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Standardised scans (1797, 1, 16, 16) and labels, in a fixed random order."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32)[order].reshape(-1, 1, 8, 8)
    x = nn.functional.interpolate(x, size=16, mode="bilinear")
    return (x - x.mean()) / x.std(), torch.tensor(labels)[order]


def train(model: nn.Module, reg: gradreg.Regularizer | None, x: torch.Tensor, y: torch.Tensor, steps: int) -> None:
    """Train in batches of 50. The name selects the logits among the model's outputs."""
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    model.train()
    for step in range(steps):
        batch = torch.randint(len(x), (50,), generator=torch.Generator().manual_seed(step))
        total, _ = gradreg.loss(model, x[batch], y[batch], reg, step=step)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    model.eval()


def main(steps: int, seeds: int) -> dict[tuple[str, str], tuple[float, float]]:
    """(accuracy in percent, mean Jacobian norm) by network and method, as means over the seeds."""
    x, y = data()
    results = {}
    for kind in ("ConvNeXt", "ResNet"):
        for name, reg in {"plain": None, "SpectReg": gradreg.SpectReg(0.003)}.items():
            sums = torch.zeros(2)
            for seed in range(seeds):
                model = network(kind, seed)
                train(model, reg, x[:200], y[:200], steps)
                with torch.no_grad():
                    accuracy = 100 * (model(x[1300:]).logits.argmax(1) == y[1300:]).float().mean()
                norm = gradreg.measure(model, x[1300:1400], projections=8).frobenius.mean()
                sums += torch.stack([accuracy, norm])
            results[kind, name] = tuple((sums / seeds).tolist())
            print(f"{kind:9} {name:9} accuracy {sums[0] / seeds:.1f} %   mean Jacobian norm {sums[1] / seeds:.2f}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    main(**vars(parser.parse_args()))
