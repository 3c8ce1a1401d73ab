"""Right ports agree, wrong ports are caught with the right cause, and no model is left changed."""

import copy
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import numpy as np
from gradreg_core import DataGrad, JacobianPenalty, SpectReg, rademacher
from gradreg_core.cli.main import main
from gradreg_core.errors import DataFileError, GradregError, InputError, InputTypeError, SpecError, UnsupportedError
from gradreg_validation.agreement import validate
from gradreg_validation.command import parse_regularizer, read_batch
from gradreg_validation.models import find_name

torch = pytest.importorskip("torch")
nn = torch.nn
rng = np.random.default_rng(0)
X = rng.normal(size=(6, 5)).astype(np.float32)
Y = np.array([0, 1, 2, 1, 0, 2])
IMAGES = rng.normal(size=(3, 4, 4, 2)).astype(np.float32)


class Net(nn.Module):
    """A torch network with what is often ported wrongly."""

    def __init__(self, gelu="none", eps=1e-5, detached=False):
        super().__init__()
        torch.manual_seed(0)
        self.fc1 = nn.Linear(5, 8)
        self.act = nn.GELU(gelu)
        self.norm = nn.LayerNorm(8, eps=eps)
        self.mix = nn.Linear(8, 8)
        self.fc2 = nn.Linear(8, 3)
        self.detached = detached

    def forward(self, x):
        h = self.norm(self.act(self.fc1(x)))
        gate = torch.sigmoid(self.mix(h))
        return self.fc2(h * (gate.detach() if self.detached else gate))


LAYERS = ["fc1", "act", "norm", "mix", "fc2"]
SAME = [name for name, _ in Net().named_parameters()]


def arrays(net):
    return {name: each.detach().numpy().copy() for name, each in net.state_dict().items()}


def jax_port(net, approximate=False):
    """The network as a JAX function, kernels (in, out), and as stages."""
    jax = pytest.importorskip("jax")
    old = arrays(net)
    names = ("fc1", "mix", "fc2")
    params = {name: {"kernel": old[f"{name}.weight"].T, "bias": old[f"{name}.bias"]} for name in names}
    params["norm"] = {"scale": old["norm.weight"], "bias": old["norm.bias"]}

    def dense(name):
        return lambda p, x: x @ p[name]["kernel"] + p[name]["bias"]

    def norm(p, h):
        centred = h - h.mean(-1, keepdims=True)
        return (
            centred / jax.numpy.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["norm"]["scale"]
            + p["norm"]["bias"]
        )

    def head(p, h):
        return dense("fc2")(p, h * jax.nn.sigmoid(dense("mix")(p, h)))

    stages = [
        ("dense", dense("fc1")),
        ("gelu", lambda p, h: jax.nn.gelu(h, approximate=approximate)),
        ("norm", norm),
        ("out", head),
    ]

    def apply(p, x):
        for _, stage in stages:
            x = stage(p, x)
        return x

    return apply, params, stages


JAX_NAMES = {
    **{f"{name}.weight": f"{name}.kernel" for name in ("fc1", "mix", "fc2")},
    **{f"{name}.bias": f"{name}.bias" for name in ("fc1", "mix", "fc2", "norm")},
    "norm.weight": "norm.scale",
}
JAX_LAYERS = [("fc1", "dense"), ("act", "gelu"), ("norm", "norm"), ("fc2", "out")]


def keras_port(net, permute=True):
    """The torch network of `images()` in Keras, channels last."""
    pytest.importorskip("tensorflow")
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((4, 4, 2)),
            layers.Conv2D(3, 3, padding="same", activation="tanh", name="conv"),
            layers.BatchNormalization(epsilon=1e-5, name="bn"),
            *([layers.Permute((3, 1, 2))] if permute else []),
            layers.Flatten(name="flatten"),
            layers.Dense(6, activation="softplus", name="hidden"),
            layers.LayerNormalization(epsilon=1e-5, name="norm"),
            layers.Dense(3, name="out"),
        ]
    )
    for name, (path, axes) in KERAS_NAMES.items():
        variable = next(each for each in model.variables if each.path.endswith(path))
        variable.assign(np.transpose(arrays(net)[name], axes))
    return model


KERAS_NAMES = {
    "conv.weight": ("conv/kernel", (2, 3, 1, 0)),
    "conv.bias": ("conv/bias", (0,)),
    "bn.weight": ("bn/gamma", (0,)),
    "bn.bias": ("bn/beta", (0,)),
    "bn.running_mean": ("bn/moving_mean", (0,)),
    "bn.running_var": ("bn/moving_variance", (0,)),
    "hidden.weight": ("hidden/kernel", (1, 0)),
    "hidden.bias": ("hidden/bias", (0,)),
    "norm.weight": ("norm/gamma", (0,)),
    "norm.bias": ("norm/beta", (0,)),
    "out.weight": ("out/kernel", (1, 0)),
    "out.bias": ("out/bias", (0,)),
}


def images():
    from collections import OrderedDict

    torch.manual_seed(1)
    net = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(2, 3, 3, padding=1),
            tanh=nn.Tanh(),
            bn=nn.BatchNorm2d(3),
            flatten=nn.Flatten(),
            hidden=nn.Linear(48, 6),
            soft=nn.Softplus(),
            norm=nn.LayerNorm(6),
            out=nn.Linear(6, 3),
        )
    ).eval()
    with torch.no_grad():
        net.bn.running_mean += torch.tensor([0.1, -0.2, 0.3])
        net.bn.running_var *= torch.tensor([0.5, 2.0, 1.5])
    return net


def quantities(report, agree=True):
    return [row.quantity for row in report.rows if row.agrees is agree]


# --- ports that are right -------------------------------------------------------------------------------------------
def test_a_port_to_jax_agrees_and_neither_changes():
    net = Net()
    before = arrays(net)
    apply, params, stages = jax_port(net)
    kept = copy.deepcopy(params)
    report = validate(
        net, (apply, params), X, Y, parameters=JAX_NAMES, layers=JAX_LAYERS, activations=(None, stages), step=3
    )
    assert report.ok, report
    assert report.backends == ("torch", "jax")
    assert report.cause is None
    assert report.first_divergence is None
    assert report.notes == ()
    assert quantities(report) == [
        "parameters (values)",
        "outputs",
        "loss",
        "penalty SpectReg(1.0)",
        "penalty DataGrad(1.0)",
        "input gradient of the loss",
        "input gradient of the penalty",
        "input gradient of the total",
        "parameter gradient of the loss",
        "parameter gradient of the penalty",
    ]
    assert [row.quantity for row in report.layers] == ["fc1 ~ dense", "act ~ gelu", "norm", "fc2 ~ out"]
    assert all(1e-7 < row.roundoff < 1e-4 for row in report.rows)
    assert "step 3" in report.draws
    assert all(np.array_equal(value, before[name]) for name, value in arrays(net).items())
    assert all(each.grad is None and each.requires_grad for each in net.parameters())
    assert all(np.array_equal(params[a][b], kept[a][b]) for a in kept for b in kept[a])


@pytest.mark.parametrize("explicit", [False, True])
def test_a_channels_last_port_to_keras_agrees_and_neither_changes(explicit):
    net = images()
    model = keras_port(net)
    names = KERAS_NAMES if explicit else {name: path for name, (path, _) in KERAS_NAMES.items()}
    before = [each.numpy() for each in model.variables], arrays(net)
    report = validate(
        net,
        model,
        IMAGES,
        parameters=names,
        layers=[("bn", "bn", (0, 2, 3, 1)), "out"],
        inputs=((0, 3, 1, 2), None),
        transpose=not explicit,
    )
    assert report.ok, report
    assert report.backends == ("torch", "tensorflow")
    assert [row.agrees for row in report.layers] == [True, True]
    assert any("bn.running_mean" in note for note in report.notes)
    assert all(np.array_equal(each.numpy(), old) for each, old in zip(model.variables, before[0], strict=True))
    assert all(np.array_equal(value, before[1][name]) for name, value in arrays(net).items())
    assert not any("call" in vars(layer) for layer in model.layers)


def test_a_flax_module_and_a_function_whose_parameters_are_out_of_reach():
    nnx = pytest.importorskip("flax.nnx")
    module = nnx.Sequential(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), nnx.tanh, nnx.Linear(4, 3, rngs=nnx.Rngs(1)))
    weights = [(np.array(each.kernel.get_value()), np.array(each.bias.get_value())) for each in module.layers[::2]]

    def port(x):
        (a, b), (c, d) = ((torch.tensor(k), torch.tensor(v)) for k, v in weights)
        return torch.tanh(x @ a + b) @ c + d

    report = validate(port, module, X, backends=("torch", None))
    assert report.ok, report
    assert report.backends == ("torch", "jax")
    assert "measured in the second (jax) model" in report.unit
    alone = validate(port, port, X, backends=("torch", "torch"), repeats=1)
    assert alone.ok
    assert "the parameters cannot be reached" in alone.unit
    named = validate(module, module, X, parameters=["layers.0.kernel", "layers.2.bias"], repeats=1)
    assert "parameter gradient of the penalty" in quantities(named)


def test_a_tensorflow_module_against_itself_in_float64_and_against_float32():
    tf = pytest.importorskip("tensorflow")

    class Module(tf.Module):
        def __init__(self, dtype):
            super().__init__()
            self.kernel = tf.Variable(np.linspace(-1, 1, 15).reshape(5, 3).astype(np.float32).astype(dtype))

        def __call__(self, x):
            return tf.tanh(x @ self.kernel)

    double = Module(np.float64)
    report = validate(double, double, X.astype(np.float64), Y, parameters=["kernel"], repeats=2)
    assert report.ok
    assert report.dtype == "float64"
    assert max(row.roundoff for row in report.rows) < 1e-14
    mixed = validate(double, Module(np.float32), X, Y, parameters=["kernel"])
    assert mixed.ok, mixed
    assert mixed.dtype == "float32"
    assert min(row.roundoff for row in mixed.rows) > 1e-8
    assert np.array_equal(double.kernel.numpy(), Module(np.float64).kernel.numpy())


# --- ports that are wrong -------------------------------------------------------------------------------------------
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
    assert report.cause.startswith("the outputs differ already")
    assert words in report.cause
    assert f"first layer that differs: {layer}" in str(report)
    assert [row.agrees for row in report.layers[: LAYERS.index(layer)]] == [True] * LAYERS.index(layer)


def test_the_wrong_gelu_in_jax_is_named():
    apply, params, stages = jax_port(Net(), approximate=True)
    report = validate(
        Net(), (apply, params), X, None, SpectReg(1.0), parameters={}, layers=JAX_LAYERS, activations=(None, stages)
    )
    assert report.first_divergence == "act ~ gelu"
    assert "tanh approximation in JAX" in report.cause
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
            self.a, self.b = (tf.Variable(each) for each in arrays(Normed()).values())

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


# --- what is kept, and what is refused ------------------------------------------------------------------------------
def test_nothing_changes_when_a_call_fails():
    net, model = images().train(), keras_port(images())
    before = [each.numpy() for each in model.variables], arrays(net)
    state = torch.random.get_rng_state()

    def fail(outputs, y):
        raise RuntimeError("out of cheese")

    def fine(outputs, y):
        return (outputs**2).sum(-1)

    with pytest.raises(InputError, match=r"second \(tensorflow\) model raised RuntimeError: out of cheese"):
        validate(net, model, IMAGES, Y[:3], loss_fn=(fine, fail), inputs=((0, 3, 1, 2), None))
    assert all(np.array_equal(each.numpy(), old) for each, old in zip(model.variables, before[0], strict=True))
    assert all(np.array_equal(value, before[1][name]) for name, value in arrays(net).items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert net.training


def test_a_failure_under_perturbed_weights_restores_keras_variables():
    model = keras_port(images())
    before = [each.numpy() for each in model.variables]
    calls = []

    def fail_later(outputs, y):
        calls.append(not np.array_equal(model.variables[0].numpy(), before[0]))
        if calls[-1]:
            raise RuntimeError("late")
        return outputs[:, 0]

    with pytest.raises(InputError, match="late"):
        validate(model, model, IMAGES, Y[:3], SpectReg(1.0), loss_fn=fail_later)
    assert calls[-1]
    assert all(np.array_equal(each.numpy(), old) for each, old in zip(model.variables, before, strict=True))


def test_training_mode_is_noted_and_randomness_refused():
    net = images().train()
    report = validate(net, images(), IMAGES.transpose(0, 3, 1, 2), repeats=1)
    assert any("first (torch) model has BatchNorm2d in training mode" in note for note in report.notes)
    with pytest.raises(InputError, match=r"the first \(torch\) model is random"):
        validate(nn.Sequential(nn.Linear(5, 50), nn.Dropout(), nn.Linear(50, 3)), Net(), X)


class Half(nn.Linear):
    def __init__(self, dtype):
        super().__init__(5, 3, dtype=dtype)


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "words"),
    [
        ((Net(), lambda x: x, X), {}, InputError, "second model: which framework <lambda> belongs to"),
        ((Net(), 3, X), {}, InputTypeError, "callable or a pair"),
        ((Net(), Net(), Y), {}, InputTypeError, "x must be a floating-point array, got int64"),
        ((Net(), Net(), X[:0]), {}, InputError, "at least one sample"),
        ((Net(), Net(), X), {"reg": "SpectReg"}, InputTypeError, "reg must be a regularizer"),
        ((Net(), Net(), X), {"repeats": 0}, SpecError, "repeats must be an integer of at least 1"),
        ((Net(), Net(), X), {"reg": DataGrad(1.0)}, GradregError, r"first \(torch\) model: penalty"),
        ((Net(), Net(), X), {"backends": ("numpy", None)}, UnsupportedError, "not of 'numpy'"),
        ((Net(), Half(torch.float16), X), {}, UnsupportedError, "second model: it has parameters of dtype float16"),
        ((Net(), Half(torch.bfloat16), X), {}, UnsupportedError, "bfloat16"),
        ((Net(), Net(), X), {"parameters": ["fc9.bias"]}, InputError, "no parameter 'fc9.bias'.*'fc1.weight'"),
        ((Net(), Net(), X), {"parameters": ["bias"]}, InputError, "or several that end so"),
        ((Net(), Net(), X), {"parameters": [("fc1.bias",)]}, InputTypeError, "got the entry"),
        ((Net(), Net(), X), {"parameters": {"fc1.bias": "fc2.weight"}}, InputError, r"\(8,\) cannot be"),
        ((Net(), Net(), X), {"parameters": {"fc1.bias": ("mix.bias", (1, 0))}}, InputError, "no permutation"),
        ((Net(), Net(), X), {"layers": ["fc9"]}, InputError, "no layer 'fc9'"),
        ((Net(), nn.Linear(5, 4), X), {}, InputError, r"shapes \(6, 3\) and \(6, 4\)"),
    ],
)
def test_what_is_wrong_is_said(arguments, options, kind, words):
    with pytest.raises(kind, match=words):
        validate(*arguments, **options)


def test_a_name_may_be_an_ending_that_is_unique():
    names = ["sequential/fc/kernel", "sequential/fc/bias", "sequential/fc2/bias"]
    assert find_name(names, "fc.kernel") == "sequential/fc/kernel"
    assert find_name(names, "fc/bias") == "sequential/fc/bias"
    assert find_name(names, "bias") is None
    assert find_name(names, "ernel") is None


# --- report and command ---------------------------------------------------------------------------------------------
def test_the_report_goes_to_text_and_json():
    class Broken(Net):
        def forward(self, x):
            outputs = super().forward(x)
            return outputs + 0 * torch.sqrt((outputs * 0).abs())  # the derivative is NaN

    report = validate(Net(), Broken(), X, reg=SpectReg(1.0), repeats=1)
    found = json.loads(report.to_json())
    assert found == report.to_dict()
    assert (found["verdict"], found["ok"]) == ("disagree", False)
    by_name = {row["quantity"]: row for row in found["rows"]}
    assert by_name["outputs"]["agrees"] is True
    assert by_name["penalty SpectReg(1.0)"]["difference"] is None
    assert report.cause.startswith("NaN or infinite in one of the models at least: penalty SpectReg(1.0), input")
    assert found["versions"]["torch"] == torch.__version__
    assert re.search(r"^penalty SpectReg\(1\.0\) +inf .*DIFFERS$", str(report), re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SpectReg(0.01)", SpectReg(0.01)),
        ("DataGrad(0.1) + SpectReg(0.01, seed=3)", DataGrad(0.1) + SpectReg(0.01, seed=3)),
        ("JacobianPenalty(1, projection=rademacher(2))", JacobianPenalty(1.0, projection=rademacher(2))),
    ],
)
def test_a_regularizer_is_read_from_its_short_form(text, wanted):
    assert parse_regularizer(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "open('x')",
        "SpectReg(open('x'))",
        "SpectReg(0.1).terms",
        "SpectReg(**{'weight': 1})",
        "SpectReg(lambda step: 1)",
        "SpectReg(",
        "SpectReg(0.1, sede=1)",
        "rademacher(2)",
        "0.1",
        "OUTPUTS()",
        "",
    ],
)
def test_nothing_but_a_regularizer_is_read(text):
    with pytest.raises(InputError, match="is no regularizer"):
        parse_regularizer(text)


def test_a_wrong_weight_keeps_its_own_error():
    with pytest.raises(SpecError, match="weight must be a finite number"):
        parse_regularizer("SpectReg(-1)")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A directory with models and a batch, in which the command runs."""
    source = "from test_validate import Net\nport = Net\nmodel = Net()\nwrong = Net(eps=1e-3)\nnumber = 3\n"
    (tmp_path / "acme_ports.py").write_text(source + "def broken():\n    raise KeyError('weights')\n")
    np.savez(tmp_path / "batch.npz", x=X, y=Y)
    np.savez(tmp_path / "unnamed.npz", X)
    np.savez(tmp_path / "pickled.npz", x=np.array([object()], dtype=object))
    np.save(tmp_path / "single.npy", X)
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "truncated.npz").write_bytes((tmp_path / "batch.npz").read_bytes()[:200])
    (tmp_path / "names.json").write_text(json.dumps([[name, name] for name in SAME]))
    (tmp_path / "reg.json").write_text(json.dumps({"schema": 1, "kind": "FrobReg", "weight": 2.0}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "test_validate", sys.modules[__name__])
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("acme_ports", None)


def run(*arguments):
    return CliRunner().invoke(main, ["validate", *arguments])


def test_the_command_says_that_models_agree(folder):
    options = ["--batch", "batch.npz", "--parameters", "names.json", "--reg", "reg.json", "--json", "--step", "4"]
    done = run("acme_ports:model", "acme_ports:port", *options)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["ok"] is True
    assert "penalty FrobReg(2.0)" in [row["quantity"] for row in found["rows"]]
    assert found["draws"] == "step 4, seed 0"


def test_the_command_says_that_models_disagree(folder):
    done = run("acme_ports:model", "acme_ports:wrong", "--batch", "batch.npz", "--reg", "SpectReg(0.1)")
    assert done.exit_code == 1
    assert "disagree" in done.stdout
    assert "first layer that differs: norm" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["acme_ports:model", "acme_ports:absent", "--batch", "batch.npz"], "'acme_ports:absent' cannot be loaded"),
        (["acme_ports:model", "acme_absent:model", "--batch", "batch.npz"], "acme_absent"),
        (["acme_ports:model", "acme_ports", "--batch", "batch.npz"], "expected module:name"),
        (["acme_ports:model", "acme_ports:broken", "--batch", "batch.npz"], "raised KeyError: 'weights'"),
        (["acme_ports:model", "acme_ports:number", "--batch", "batch.npz"], "second model: a model is a callable"),
        (["acme_ports:model", "acme_ports:port", "--batch", "absent.npz"], "absent.npz: cannot be read"),
        (["acme_ports:model", "acme_ports:port", "--batch", "batch.npz", "--reg", "exit()"], "is no regularizer"),
        (["acme_ports:model", "acme_ports:port", "--batch", "batch.npz", "--layers", "text.npz"], "read as JSON"),
        (["acme_ports:model", "acme_ports:port", "--batch", "batch.npz", "--first-axes", "a"], "expected axes"),
        (["acme_ports:model", "acme_ports:port"], "--batch"),
    ],
)
def test_what_cannot_be_compared_is_status_2(folder, arguments, words):
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert words in done.stderr


@pytest.mark.parametrize("name", ["unnamed", "pickled", "text", "truncated", "absent"])
def test_a_bad_batch_file_is_named(folder, name):
    with pytest.raises(DataFileError, match=rf"{name}\.npz: "):
        read_batch(f"{name}.npz")


def test_a_single_array_is_no_batch_file(folder):
    with pytest.raises(DataFileError, match="a single array"):
        read_batch("single.npy")


# --- the page -------------------------------------------------------------------------------------------------------
def test_the_page_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    pytest.importorskip("jax")
    pytest.importorskip("tensorflow")
    page = (Path(__file__).parents[2] / "docs" / "validate.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)
    kinds = [kind for kind, _ in blocks]
    assert kinds == ["python", "python", "text", "python", "bash"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "ports.py").write_text(blocks[0][1])
    try:
        exec(compile(blocks[1][1], "page", "exec"), {"__name__": "page"})
        shown = capsys.readouterr().out
        exec(compile(blocks[3][1], "page", "exec"), {"__name__": "page"})
        lines = [line for line in blocks[4][1].splitlines() if line]
        assert lines
        for line in lines:
            program, *arguments = shlex.split(line)
            done = CliRunner().invoke(main, arguments)
            assert (program, done.exit_code) == ("gradreg", 0), done.output
    finally:
        sys.modules.pop("ports", None)
    table = [line.split("  ")[0] for line in blocks[2][1].splitlines() if line.endswith("ok")]
    assert table == [line.split("  ")[0] for line in shown.splitlines() if line.endswith("ok")]
