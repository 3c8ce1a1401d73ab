"""The experiment with the residual network: augmentation, its losses, and a small run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import gradreg_torch as gradreg
from gradreg_core.errors import InputError
from gradreg_experiments.evidence import residual
from gradreg_experiments.evidence.study import command


def test_augmented_images_are_parts_of_the_image_or_of_its_mirror():
    x = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    moved = residual.augmented(x, np.random.default_rng(0))
    assert moved.shape == x.shape
    mirrored = 0
    for before, after in zip(x, moved, strict=True):
        candidates = {}
        for flip in (False, True):
            padded = torch.nn.functional.pad(before.flip(2) if flip else before, (4, 4, 4, 4))
            for top in range(9):
                for left in range(9):
                    candidates[flip, top, left] = padded[:, top : top + 32, left : left + 32]
        (match,) = [key for key, own in candidates.items() if torch.equal(own, after)]
        mirrored += match[0]
    assert 0 < mirrored < 20
    assert torch.equal(moved, residual.augmented(x, np.random.default_rng(0)))


def test_losses_are_those_of_soft_labels_and_mixed_inputs():
    """Float32; a few dozen roundings."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 10))
    x, y = torch.randn(4, 3, 2, 2), torch.tensor([0, 3, 5, 9])

    def value(name, setting):
        return residual._loss(name, setting, model, x, y, 0, np.random.default_rng(1)).item()

    logs = model(x).log_softmax(1)
    hard, uniform = -logs[range(4), y].mean(), -logs.mean()
    assert value("none", 0.1) == value("weight decay", 0.1) == pytest.approx(hard.item(), rel=1e-6)
    assert value("label smoothing", 0.2) == pytest.approx((0.8 * hard + 0.2 * uniform).item(), rel=1e-6)
    generator = np.random.default_rng(1)
    share, order = generator.beta(0.3, 0.3), generator.permutation(4)
    logs = model(share * x + (1 - share) * x[order]).log_softmax(1)
    mixed = -(share * logs[range(4), y] + (1 - share) * logs[range(4), y[order]]).mean()
    assert value("mixup", 0.3) == pytest.approx(mixed.item(), rel=1e-6)
    # One linear layer: the Jacobian is its matrix, and the directions are gradreg's own.
    with_penalty = gradreg.loss(model, x, y, gradreg.SpectReg(0.5), step=0)[0].item()
    assert value("SpectReg", 0.5) == pytest.approx(with_penalty, rel=1e-6)
    assert value("SpectReg, lazily", 0.5) == pytest.approx(hard.item() + 4 * (with_penalty - hard.item()), rel=1e-5)


def test_a_small_run_makes_its_page(tmp_path, images, monkeypatch):
    for name, value in (("_POOL", 2), ("_VALIDATION", 1), ("_TEST", 1), ("_BATCH", 4)):
        monkeypatch.setattr(residual, name, value)
    residual._data.cache_clear()
    methods = tuple(replace(method, settings=method.settings[:2]) for method in residual.STUDY.methods[:2])
    tiny = replace(
        residual.STUDY,
        conditions=(("CIFAR-10, GroupNorm", 8), ("CIFAR-10, BatchNorm", 8)),
        methods=methods,
        seeds=2,
        steps=2,
        more_seeds={},
    )
    monkeypatch.setattr(residual, "STUDY", tiny)
    out = tmp_path / "out"
    arguments = ["--data-dir", str(images(tmp_path / "a.zip", 4)), "--out", str(out)]
    done = CliRunner().invoke(command(tiny), arguments, catch_exceptions=False)
    residual._data.cache_clear()
    assert done.exit_code == 0
    text = (out / "README.md").read_text()
    assert "experiment has 12 trainings" in " ".join(text.split())
    assert "All cells are run." in text


def test_the_images_need_their_file():
    with pytest.raises(InputError, match="residual: expected --data-dir with a zip file"):
        residual._train(residual.STUDY.conditions[0], residual.STUDY.methods[0], [0], None)
