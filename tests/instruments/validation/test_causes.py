"""Causes of a difference: parameters that are no longer tied, layers that a port leaves out, weights counted from 1."""

import numpy as np
import pytest

from gradreg_core import WeightDecay
from gradreg_validation import validate

torch = pytest.importorskip("torch")
nn = torch.nn

ROWS = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)


def compared(first, second, x=ROWS):
    return validate(first.eval(), second.eval(), x, reg=WeightDecay(0.1), repeats=1)


def seeded(module, state=None):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    if state is not None:
        module.load_state_dict(state, strict=False)
    return module


class Tied(nn.Module):
    def __init__(self, tied=True):
        super().__init__()
        self.embed, self.inner, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(torch.tanh(self.inner(self.embed(x))))


def test_a_head_that_is_no_longer_tied_is_named():
    tokens = np.random.default_rng(0).integers(0, 7, (4, 5))
    net = seeded(Tied())
    kept = {name: value for name, value in net.state_dict().items() if not name.startswith("head")}
    report = compared(net, seeded(Tied(tied=False), kept), tokens)
    assert report.first_divergence == "head"
    assert (
        "The two layers differ in their kernel; with the second's, the first's layer gives the second's" in report.cause
    )
    assert "In the first model its kernel is that of embed.weight." in report.cause
    assert compared(net, seeded(Tied()), tokens).ok


class Normed(nn.Module):
    """Attention whose queries and keys are normalised by layers of their own, which a port may leave out."""

    def __init__(self, normed=True):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))
        self.normed, self.norm_q, self.norm_k = normed, nn.LayerNorm(3), nn.LayerNorm(3)

    def forward(self, x):
        q, k, v = (layer(x).reshape(*x.shape[:2], 2, 3).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.normed:
            q, k = self.norm_q(q), self.norm_k(k)
        y = torch.softmax(q @ k.mT / 3**0.5, -1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.slow
def test_layers_that_a_port_leaves_out_are_named():
    net = seeded(Normed())
    report = compared(net, seeded(Normed(normed=False), net.state_dict()))
    assert report.first_divergence == "out"
    assert "no mask (q, k, v = norm_q, norm_k, v) in the first model" in report.cause
    assert "no mask (q, k, v = q, k, v) in the second" in report.cause


class RMSNorm(nn.Module):
    def __init__(self, offset):
        super().__init__()
        self.eps, self.offset, self.weight = 1e-6, offset, nn.Parameter(torch.ones(6))

    def forward(self, x):
        return x * torch.rsqrt((x**2).mean(-1, keepdim=True) + self.eps) * (self.offset + self.weight)


@pytest.mark.parametrize(("offsets", "words"), [((1, 0), ("1 + scale", "scale")), ((0, 1), ("scale", "1 + scale"))])
def test_a_weight_that_counts_from_one_is_named(offsets, words):
    first, second = (seeded(nn.Sequential(nn.Linear(6, 6), RMSNorm(offset), nn.Linear(6, 2))) for offset in offsets)
    report = compared(first, second)
    assert report.first_divergence == "1"
    assert f"In the first model: {words[0]}; in the second: {words[1]}." in report.cause
