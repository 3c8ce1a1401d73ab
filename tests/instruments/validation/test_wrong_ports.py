"""Wrong ports are caught, with the right cause."""

import pytest

from gradreg_core import SpectReg
from gradreg_core.errors import InputError
from gradreg_validation import validate
from instruments.validation.ports import (
    IMAGES,
    JAX_LAYERS,
    LAYERS,
    SAME,
    Net,
    X,
    Y,
    arrays,
    images,
    jax_port,
    keras_port,
    nn,
    quantities,
    torch,
)


def without_bias():
    net = Net()
    net.fc1 = nn.Linear(5, 8, bias=False)
    net.fc1.weight = Net().fc1.weight
    return net


def transposed():
    net = Net()
    with torch.no_grad():
        net.mix.weight.copy_(Net().mix.weight.T.clone())
    return net


@pytest.mark.parametrize(
    ("port", "layer", "words"),
    [
        (lambda: Net(gelu="tanh"), "act", "GELU"),
        (lambda: Net(eps=1e-3), "norm", "eps"),
        (without_bias, "fc1", "leaves out 'fc1.bias' of the first (torch)"),
        (transposed, "mix", "kernel"),
    ],
)
def test_a_wrong_forward_pass_names_the_layer(port, layer, words):
    second = port()
    names = [name for name, _ in second.named_parameters()]
    report = validate(Net(), second, X, Y, SpectReg(1.0), parameters=names, layers=LAYERS, repeats=3)
    assert not report.ok
    assert "parameters (values)" in quantities(report)
    assert "outputs" in quantities(report, agree=False)
    assert report.first_divergence == layer
    assert report.cause.startswith("the outputs differ: ")
    assert words in report.cause
    assert f"first layer that differs: {layer}" in str(report)
    assert [row.agrees for row in report.layers[: LAYERS.index(layer)]] == [True] * LAYERS.index(layer)


def test_the_wrong_gelu_in_jax_is_named():
    apply, params, stages = jax_port(Net(), approximate=True)
    report = validate(
        Net(), (apply, params), X, None, SpectReg(1.0), parameters={}, layers=JAX_LAYERS, activations=(None, stages)
    )
    assert report.first_divergence == "act ~ gelu"
    assert "act ~ gelu. There, act is GELU in its exact (erf) form of fc1 in the first model" in report.cause
    assert "and GELU in its tanh approximation of fc1 in the second" in report.cause
    assert min(row.ratio for row in report.rows) > 50


def test_a_flatten_in_another_order_is_named():
    net = images()
    layers = ["conv", "bn", "flatten", "out"]
    pairs = [("tanh" if name == "conv" else name, name) for name in layers]
    report = validate(net, keras_port(net, permute=False), IMAGES, layers=pairs, inputs=((0, 3, 1, 2), None), repeats=2)
    assert report.first_divergence == "flatten"
    assert "another order" in report.cause
    assert [row.agrees for row in report.layers] == [True, True, False, False]


def test_parameters_that_differ_are_the_cause_whatever_else_does():
    net = transposed()
    report = validate(Net(), net, X, parameters=SAME, transpose=False, repeats=1)
    assert not report.ok
    assert "the parameters differ: 'mix.weight' and 'mix.weight'" in report.cause
    axes = validate(Net(), Net(), X, parameters=[("mix.weight", "mix.weight", (1, 0))], repeats=1)
    assert "compared with axes (1, 0)" in axes.cause
    assert quantities(axes, agree=False)[0] == "parameters (values)"


def test_a_detached_branch_shows_in_the_derivatives_alone():
    report = validate(Net(), Net(detached=True), X, Y, parameters=SAME, layers=LAYERS, repeats=3)
    assert {"outputs", "loss", "parameters (values)"} <= set(quantities(report))
    assert "input gradient of the loss" in quantities(report, agree=False)
    assert "the outputs agree, but the first derivatives differ" in report.cause
    assert report.first_divergence is None


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.randn(6, 3))

    def forward(self, x):
        return nn.functional.layer_norm(torch.tanh(x @ self.a), (6,)) @ self.b


def normed_port(stopped):
    tf = pytest.importorskip("tensorflow")

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (tf.Variable(array) for array in arrays(Normed()).values())

        def __call__(self, x):
            h = tf.tanh(x @ self.a)
            mean = tf.reduce_mean(h, -1, keepdims=True)
            about = tf.stop_gradient(mean) if stopped else mean
            variance = tf.reduce_mean(tf.math.squared_difference(h, about), -1, keepdims=True)
            return ((h - mean) * tf.math.rsqrt(variance + 1e-5)) @ self.b

    return Module()


def test_a_wrong_second_derivative_is_told_from_a_wrong_first():
    good = validate(Normed(), normed_port(stopped=False), X, Y, parameters=["a", "b"], repeats=3)
    assert good.ok, good
    report = validate(Normed(), normed_port(stopped=True), X, Y, parameters=["a", "b"], repeats=3)
    assert quantities(report, agree=False) == [
        "input gradient of the penalty",
        "input gradient of the total",
        "parameter gradient of the penalty",
    ]
    assert "second derivatives" in report.cause
    assert max(row.ratio for row in report.rows) > 1e3


def test_the_loss_alone_may_differ():
    def mean(outputs, y):
        return (outputs**2).mean(-1)

    def total(outputs, y):
        return (outputs**2).sum(-1)

    report = validate(Net(), Net(), X, Y, SpectReg(1.0), loss_fn=(mean, total), repeats=1)
    assert "compare loss_fn" in report.cause


def flattened(how):
    """A convolutional network and the same with its channels last, whose dense layer has its rows in another order."""
    jax = pytest.importorskip("jax")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4))
    old = arrays(net)
    params = {
        "kernel": old["0.weight"].transpose(2, 3, 1, 0),
        "dense": old["3.weight"].reshape(4, 3, 2, 2).transpose(2, 3, 1, 0).reshape(12, 4),
    }

    def apply(p, x):
        axes = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(x, p["kernel"], (1, 1), "VALID", dimension_numbers=axes) + old["0.bias"]
        return jax.numpy.tanh(h).reshape(len(x), -1) @ p["dense"] + old["3.bias"]

    names = {"0.weight": "kernel", "3.weight": ["dense", how] if how else "dense"}
    return validate(net, (apply, params), IMAGES, parameters=names, inputs=((0, 3, 1, 2), None))


def test_a_dense_layer_after_a_flatten_is_rearranged():
    how = {"reshape": [4, 3, 2, 2], "axes": [2, 3, 1, 0]}
    report = flattened(how)
    assert report.ok, report
    assert "parameter gradient of the penalty" in [row.quantity for row in report.rows]
    assert "the same numbers in another order" in flattened(None).cause


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"axes": [1, 0]}, "'reshape' and 'axes'"),
        ({"reshape": [5, 5], "axes": [1, 0]}, r"shape \(4, 12\) into one of shape \(12, 4\): cannot reshape"),
        ({"reshape": [4, 12], "axes": [1]}, "axes don't match"),
        ({"reshape": "4", "axes": [0]}, "does not turn"),
    ],
)
def test_a_rearrangement_that_does_not_fit_is_refused(how, words):
    with pytest.raises(InputError, match=words):
        flattened(how)


def test_parameters_are_matched_by_name_where_no_map_is_given():
    report = validate(Net(), Net(detached=True), X, Y)
    assert report.notes == ()
    assert report.rows[0].agrees
    assert "parameter gradient" in report.cause or "first derivatives differ" in report.cause

    class Stopped(Net):
        def forward(self, x):
            return self.fc2(self.norm(self.act(x @ self.fc1.weight.detach().T + self.fc1.bias)))

    class Whole(Net):
        def forward(self, x):
            return self.fc2(self.norm(self.act(x @ self.fc1.weight.T + self.fc1.bias)))

    report = validate(Stopped(), Whole(), X, Y)
    assert not report.ok
    blind = validate(Stopped(), Whole(), X, Y, parameters={})
    assert blind.ok
    assert any("a weight that is detached would not be seen" in note for note in blind.notes)
