"""The attack against the exact worst case of a linear model, and a small run of the experiment that uses it."""

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

import gradreg_torch as gradreg
from gradreg_core.errors import DataFileError, InputError
from gradreg_experiments.data.images import load_images
from gradreg_experiments.evidence import kinks
from gradreg_experiments.evidence.attack import fast_sign, robust
from gradreg_experiments.evidence.study import command, make_page
from gradreg_experiments.results import Results


def linear(seed=0, count=200, d=20):
    """Two classes: logits W x, with inputs so far from 0 and 1 that the attack is never cut there."""
    generator = torch.Generator().manual_seed(seed)
    W, x = torch.randn(2, d, generator=generator), 0.4 + 0.2 * torch.rand(count, d, generator=generator)
    y = torch.randint(2, (count,), generator=generator)
    return W, x, y


def test_a_linear_models_worst_case_is_reached():
    """It is the margin less size * ||w_y - w_k||_1, by duality; the attack takes whole steps to the cube's corner."""
    W, x, y = linear()
    size = 0.05
    w = W[y] - W[1 - y]
    worst = (w * x).sum(1) - size * w.abs().sum(1)
    right = robust(lambda a: a @ W.T, x, y, size, steps=20, restarts=1)
    clear = worst.abs() > 1e-4
    assert clear.sum() > 190
    assert 0 < int(right.sum()) < len(y)
    assert (right == (worst > 0))[clear].all()


def test_more_steps_and_starts_leave_no_more_right_than_one_step():
    model = kinks.Network(torch.nn.functional.gelu, 0)
    x = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    fast = model(fast_sign(model, x, y, 4 / 255)).argmax(1) == y
    one = robust(model, x, y, 4 / 255, steps=10, restarts=1)
    two = robust(model, x, y, 4 / 255, steps=10, restarts=2)
    assert robust(model, x, y, 0.0, steps=2, restarts=1).all()
    assert int(two.sum()) <= int(one.sum()) <= int(fast.sum()) < 40
    assert not (two & ~one).any()


def test_iterates_stay_in_the_cube_and_among_pixels():
    """Float32 rounds a sum of pixels at 1e-7."""
    seen = []

    def model(a):
        seen.append(a.detach())
        return torch.stack([a.sum(1), 10 + 0 * a.sum(1)], 1)

    x = torch.tensor([[0.0, 0.5, 1.0]])
    robust(model, x, torch.tensor([1]), 0.1, steps=8, restarts=2)
    assert len(seen) == 19
    for moved in seen:
        assert (moved - x).abs().max() <= 0.1 + 1e-6
        assert moved.min() >= 0
        assert moved.max() <= 1


def test_images_are_read_by_class_in_turns(tmp_path, images):
    x, y = load_images(images(tmp_path / "a.zip", 3), "train", 1, 3)
    assert x.shape == (20, 3, 32, 32)
    assert y.tolist() == [*range(10), *range(10)]
    # Of class c the pixels lie about 24 c + 15; JPEG moves means by less than one.
    assert x.mean((1, 2, 3)) == pytest.approx(24 * y + 15.4, abs=1.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"classes": 9}, "expected 10 folders with 2 images"), ({"count": 1}, "with 1 or more"), ({"side": 16}, "shape")],
)
def test_other_images_are_refused(tmp_path, images, options, message):
    path = images(tmp_path / "a.zip", **({"count": 2} | options))
    with pytest.raises(DataFileError, match=message):
        load_images(path, "train", 0, 2)


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"none")
    with pytest.raises(DataFileError, match="expected a zip file with test/CLASS"):
        load_images(tmp_path / "a.zip", "test", 0, 1)
    with pytest.raises(InputError, match="kinks: expected --data-dir"):
        kinks._train(kinks.STUDY.conditions[0], kinks.STUDY.methods[0], [0], None)


def test_the_norms_are_those_of_the_losses_gradients():
    """Float32; sums over 3,072 pixels round at 1e-5."""
    model = kinks.Network(torch.nn.functional.gelu, 0)
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.tensor([0, 1, 2])
    losses = torch.nn.functional.cross_entropy(model(x), y, reduction="none")
    (slope,) = torch.autograd.grad(losses.sum(), x)
    for name, norm in ((kinks._L1, 1), (kinks._L2, 2)):
        wanted = losses.mean() + 0.5 * slope.flatten(1).norm(norm, dim=1).mean()
        assert kinks._loss(name, 0.5, model, x.detach(), y, 0).item() == pytest.approx(wanted.item(), rel=1e-5)
    moved = fast_sign(model, x, y, 2 / 255)
    wanted = gradreg.loss(model, moved, y, None)[0].item()
    assert kinks._loss(kinks._FAST, 2.0, model, x.detach(), y, 0).item() == wanted


def test_a_small_run_makes_its_page(tmp_path, images, monkeypatch):
    for name, value in (("_POOL", 2), ("_VALIDATION", 1), ("_TEST", 1), ("_ATTACKED", 4), ("_STEPS", 2)):
        monkeypatch.setattr(kinks, name, value)
    kinks._data.cache_clear()
    conditions = tuple((name, 10) for name, _ in kinks.STUDY.conditions)
    methods = tuple(replace(method, settings=method.settings[:1]) for method in kinks.STUDY.methods[:2])
    tiny = replace(kinks.STUDY, conditions=conditions, methods=methods, seeds=2, steps=2)
    monkeypatch.setattr(kinks, "STUDY", tiny)
    path, out = images(tmp_path / "a.zip", 4), tmp_path / "out"
    arguments = ["--data-dir", str(path), "--out", str(out)]
    done = CliRunner().invoke(command(tiny), arguments, catch_exceptions=False)
    kinks._data.cache_clear()
    assert done.exit_code == 0
    text = (out / "README.md").read_text()
    assert "All cells are run." in text
    assert "Not run yet." not in text
    results = list(Results(out))
    assert len(results) == 2 * 2 * 2, "a part of each network, method and seed"
    whole = tiny.cell(Results(out), conditions[0], methods[1])
    assert [len(run["test"]["robust"]) for run in whole["tried"]] == [2]
    assert tiny.cell(Results(), conditions[0], methods[1]) is None
    some = Results()
    for condition, method in ((conditions[0], methods[0]), (conditions[0], methods[1]), (conditions[1], methods[0])):
        for part in tiny.parts(Results(out), condition, method):
            some.add(Results(out)[tiny.key(condition, *part)])
    assert {len(own) for own in tiny.cells(some).values()} == {1, 2}
    page = make_page(tiny, some)
    assert "with every method: CIFAR-10, GELU, 10." in page
    assert replace(tiny, whole=True).cells(some).keys() == {conditions[0]}
