"""Right ports agree, and no model is left changed."""

import copy

import numpy as np
import pytest

from gradreg_validation import validate
from instruments.validation.ports import (
    IMAGES,
    JAX_LAYERS,
    JAX_NAMES,
    KERAS_NAMES,
    Net,
    X,
    Y,
    arrays,
    images,
    jax_port,
    keras_port,
    quantities,
    torch,
)


@pytest.mark.slow
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
    assert report.notes == ("compared with its axes permuted to (1, 0): 'fc1.weight', 'mix.weight', 'fc2.weight'",)
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
    assert all(param.grad is None and param.requires_grad for param in net.parameters())
    assert all(np.array_equal(params[a][b], kept[a][b]) for a in kept for b in kept[a])


@pytest.mark.parametrize("explicit", [False, True])
def test_a_channels_last_port_to_keras_agrees_and_neither_changes(explicit):
    net = images()
    model = keras_port(net)
    names = KERAS_NAMES if explicit else {name: path for name, (path, _) in KERAS_NAMES.items()}
    before = [variable.numpy() for variable in model.variables], arrays(net)
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
    assert all(np.array_equal(variable.numpy(), old) for variable, old in zip(model.variables, before[0], strict=True))
    assert all(np.array_equal(value, before[1][name]) for name, value in arrays(net).items())
    assert not any("call" in vars(layer) for layer in model.layers)


def test_a_flax_module_and_a_function_whose_parameters_are_out_of_reach():
    nnx = pytest.importorskip("flax.nnx")
    module = nnx.Sequential(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), nnx.tanh, nnx.Linear(4, 3, rngs=nnx.Rngs(1)))
    weights = [(np.array(layer.kernel.get_value()), np.array(layer.bias.get_value())) for layer in module.layers[::2]]

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
