"""The first layer that differs is named without `layers=`, whatever its shape and the activation that it holds."""

import numpy as np
import pytest

from gradreg_core import WeightDecay
from gradreg_validation import validate

torch = pytest.importorskip("torch")
nn = torch.nn
draw = np.random.default_rng(1).normal
IMAGES = draw(size=(2, 2, 8, 8)).astype(np.float32)
ROWS = draw(size=(3, 5)).astype(np.float32)
STEPS = draw(size=(2, 5, 3)).astype(np.float32)


def compared(first, second, x):
    second.load_state_dict(first.state_dict())
    return validate(first.eval(), second.eval(), x, reg=WeightDecay(0.1), repeats=1)


class Pooled(nn.Module):
    def __init__(self, ceil=True, crop=False, dim=1):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pool = nn.Conv2d(2, 4, 3, padding=1), nn.MaxPool2d(3, 2, ceil_mode=ceil)
        self.last, self.crop = nn.Conv2d(4, 3, 3), crop

    def forward(self, x):
        h = self.pool(self.conv(x))
        return self.last(h[:, :, :3, :3] if self.crop else h).mean((2, 3))


def test_layers_whose_shapes_do_not_fit_differ_if_the_next_does():
    report = compared(Pooled(ceil=True), Pooled(ceil=False), IMAGES)
    assert report.first_divergence == "pool"
    assert "ceil_mode, a last window that is not full; in the second: only full windows" in report.cause
    right = compared(Pooled(ceil=True, crop=True), Pooled(ceil=False), IMAGES)
    assert right.ok
    assert right.first_divergence is None
    assert any("pool: shapes" in note for note in right.notes)


class Heads(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.a, self.b, self.scale = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(6, 4), scale

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return {"a": self.a(h), "b": torch.sigmoid(self.b(h)) * self.scale}


def test_of_several_outputs_the_one_that_differs_is_explained():
    report = compared(Heads(), Heads(scale=2.0), ROWS)
    assert report.first_divergence is None
    assert "outputs['b'] is sigmoid of b in the first model, and sigmoid of b times 2 in the second" in report.cause


class Both(nn.Module):
    """A network over a bidirectional layer; `how` turns its result into the next layer's input."""

    def __init__(self, how=lambda y: y):
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.LSTM(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 2)
        self.rnn.register_forward_hook(lambda module, args, result: (how(result[0]), result[1]))

    def forward(self, x):
        return self.head(self.rnn(x)[0])[:, 0]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda y: torch.cat([y[..., 4:], y[..., :4]], -1), "joined as forward, backward; in the second: as backward"),
        (lambda y: torch.cat([y[..., :4], y[..., 4:].flip(1)], -1), "not turned round again"),
    ],
)
def test_the_directions_of_a_recurrent_layer_are_named(how, words):
    report = compared(Both(), Both(how), STEPS)
    assert report.first_divergence == "rnn"
    assert words in report.cause


def test_slopes_that_were_not_copied_are_named():
    nets = []
    for slopes in ([0.1, 0.4, -0.2, 0.3], [0.25] * 4):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 4), nn.PReLU(4), nn.Linear(4, 3))
        net[1].weight.data = torch.tensor(slopes)
        nets.append(net)
    report = validate(*nets, ROWS, reg=WeightDecay(0.1), repeats=1)
    assert report.first_divergence == "1"
    assert "the slope 0.25 everywhere: its slopes were not copied" in report.cause


class Biased(nn.Module):
    """A bias of shape (1, 4), which WeightDecay counts, or of shape (4)."""

    def __init__(self, *shape):
        super().__init__()
        self.kernel, self.bias = nn.Parameter(torch.ones(5, 4)), nn.Parameter(torch.ones(*shape))

    def forward(self, x):
        return x @ self.kernel + self.bias


def test_a_weight_decay_of_other_parameters_is_no_wrong_derivative():
    report = validate(Biased(1, 4), Biased(4), ROWS, reg=WeightDecay(0.1), repeats=1)
    assert "WeightDecay: it counts the parameters with two or more axes" in report.cause


@pytest.mark.slow
def test_layers_of_keras_that_hold_their_activation_are_compared():
    pytest.importorskip("tensorflow")
    import keras

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 3)).eval()

    def ported(second):
        layers = [keras.layers.Dense(6, "relu"), keras.layers.Dense(4, second), keras.layers.Dense(3)]
        model = keras.Sequential([keras.layers.Input((5,)), *layers])
        for layer, old in zip(layers, net[::2], strict=True):
            layer.set_weights([old.weight.detach().numpy().T, old.bias.detach().numpy()])
        return validate(net, model, ROWS, reg=WeightDecay(0.1), mapping="proposed", repeats=1)

    right, wrong = ported("gelu"), ported("silu")
    assert right.ok, right
    assert len(right.layers) == 3
    assert all(row.agrees for row in right.layers)
    assert [row.agrees for row in wrong.layers] == [True, True, False]
    assert "GELU in its exact (erf) form of 2 in the first model, and silu (swish) of 2 in the second" in wrong.cause
