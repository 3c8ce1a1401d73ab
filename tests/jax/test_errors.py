"""How misuse and operations without a derivative are named in JAX."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradreg_jax as gradreg
from gradreg_core.errors import DoubleBackwardError, InputError, InputTypeError
from gradreg_core.presets import DataGrad, SpectReg, WeightDecay
from jax_cases import loop


def linear(x: Any) -> Any:
    return x @ jnp.arange(6.0).reshape(2, 3)


X, Y = np.ones((4, 2), np.float32), np.array([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"x": np.ones((4, 2), int)}, InputTypeError, "input has dtype int32, and only floating-point inputs"),
        ({"x": [[1.0, 2.0]]}, InputTypeError, "x must be an array of the jax backend, or a structure of"),
        ({"x": np.array(["a"])}, InputTypeError, "x must be an array of the jax backend, got numpy.ndarray of <U1"),
        ({"x": np.ma.ones((2, 2))}, InputTypeError, "x must be an array of the jax backend, got numpy.ma.*MaskedArray"),
        ({"x": np.ones((0, 2))}, InputError, "at least one sample"),
        ({"y": np.array([0, 1, 3, 0])}, InputError, r"labels must lie in 0..2 for 3 outputs, got values from 0 to 3"),
        ({"y": np.array([0, 1])}, InputError, r"expected integer class labels of shape \(4,\)"),
        ({"y": "abcd"}, InputTypeError, "y must be an array of labels, got str"),
        ({"y": [[0], [1, 2]]}, InputTypeError, "y must be an array of labels, got list"),
        ({"y": None}, InputError, "needs labels, but y is None"),
        ({"model": lambda x: linear(x) * np.nan}, InputError, "outputs of sample 0 are NaN or infinite"),
        ({"model": lambda x: linear(x).sum(0)}, InputError, r"expected outputs of shape \(4, ...\)"),
        ({"model": lambda x: {"z": linear(x)}}, InputTypeError, "array of floating-point outputs, got dict.*outputs="),
        ({"model": lambda x: linear(x).astype(int)}, InputTypeError, "floating-point outputs, got .* of int32"),
        ({"step": -1}, InputError, "step must be at least 0"),
        ({"step": True}, InputTypeError, "step must be an integer, got True"),
        ({"reg": DataGrad(1.0, at="hidden")}, InputError, r"'hidden' was passed.*h = gradreg.tap\('hidden', h\)"),
        ({"reg": WeightDecay(1.0)}, InputError, "cannot see the parameters of a function; pass params="),
    ],
)  # fmt: skip
def test_misuse_is_named(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    given = {"model": linear, "x": X, "y": Y, "reg": DataGrad(1.0)} | change
    with pytest.raises(kind, match=message):
        gradreg.loss(**given)


def test_wrong_labels_are_never_masked_under_jit() -> None:
    value = jax.jit(lambda y: gradreg.loss(linear, X, y, None)[0])
    assert np.isfinite(value(Y))
    assert np.isnan(value(np.array([0, 1, 3, 0])))


@pytest.mark.parametrize("call", [gradreg.loss, gradreg.penalty, gradreg.measure])
def test_what_reverse_mode_cannot_do_is_explained(call: Any) -> None:
    rest = () if call is gradreg.measure else (DataGrad(1.0),)
    with pytest.raises(
        DoubleBackwardError, match=r"no second derivative, or no derivative at all .*while_loop.*Use lax.scan"
    ):
        call(lambda x: linear(loop(x)), X, Y, *rest)


def test_other_errors_of_the_model_stay_as_they_are() -> None:
    with pytest.raises(TypeError, match="dot_general requires contracting dimensions"):
        gradreg.loss(lambda x: x @ jnp.ones((3, 3)), X, Y, DataGrad(1.0))


def test_a_tuple_with_a_new_state_is_told_of_stateful() -> None:
    with pytest.raises(InputTypeError, match=r"got tuple.*outputs=.*pass Stateful\(lambda x, state: net.apply"):
        gradreg.loss(lambda x: (linear(x), {"batch_stats": x}), X, Y, DataGrad(1.0))


def solved(x: Any, weight: Any) -> Any:
    """A custom derivative that cannot be differentiated again, as solvers of differential equations have."""

    @eqx.filter_custom_vjp
    def step(x: Any, weight: Any) -> Any:
        return jnp.tanh(x @ weight)

    step.def_fwd(lambda perturbed, x, weight: (jnp.tanh(x @ weight), None))
    step.def_bwd(lambda residuals, g, perturbed, x, weight: ((1 - step(x, weight) ** 2) * g) @ weight.T)
    return step(x, weight)


def test_solvers_are_told_of_the_adjoint_that_works() -> None:
    weight = jnp.arange(6.0).reshape(2, 3) / 6

    def penalty(weight: Any) -> Any:
        return gradreg.penalty(lambda x: solved(x, weight), X, None, SpectReg(1.0))

    with pytest.raises(DoubleBackwardError, match=r"nexpected tangent.*adjoint=diffrax.DirectAdjoint\(\)"):
        jax.grad(penalty)(weight)
    report = gradreg.check(lambda x: solved(x, weight), X, Y, SpectReg(1.0))
    assert not report.ok
    assert "diffrax.DirectAdjoint()" in str(report)
    with pytest.raises(DoubleBackwardError, match=r"Use lax.scan.*DirectAdjoint"):
        gradreg.penalty(loop, X, None, SpectReg(1.0))


@pytest.mark.parametrize(
    "params",
    ["weights", object(), {}, [], {"n": 3}, {"ids": np.arange(3)}, [np.ones((2, 2)), object()], {"a": [b"bytes"]}],
    ids=["string", "object", "empty", "list", "number", "integers", "mixed", "bytes"],
)
def test_params_that_hold_no_arrays_are_refused(params: Any) -> None:
    with pytest.raises(InputTypeError, match=r"params .*nnx.state\(model, nnx.Param\)"):
        gradreg.penalty(linear, X, Y, WeightDecay(1.0), params=params)
    report = gradreg.check(linear, X, Y, WeightDecay(1.0), params=params)
    assert not report.ok
    assert "nnx.state(model, nnx.Param)" in str(report)


def test_params_of_every_kind() -> None:
    net, module = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0)), nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    wanted = 0.5 * sum(float((layer.weight**2).sum()) for layer in net.layers)
    assert float(gradreg.penalty(linear, X, None, WeightDecay(1.0), params=net)) == pytest.approx(wanted, rel=1e-5)
    wanted = 0.5 * float((module.kernel[...] ** 2).sum())
    for params in (module, nnx.state(module, nnx.Param), {"kernel": module.kernel[...], "bias": None}):
        value = gradreg.penalty(linear, X, None, WeightDecay(1.0), params=params)
        assert float(value) == pytest.approx(wanted, rel=1e-5)  # float32


@pytest.mark.parametrize(
    "loss_fn",
    [lambda z, y: (z.argmax(1) != y).astype(int), lambda z, y: z.argmax(1) != y, lambda z, y: z[:, :0]],
    ids=["integers", "booleans", "nothing"],
)
def test_losses_without_a_gradient_are_refused(loss_fn: Any) -> None:
    with pytest.raises(InputError, match=r"loss_fn must return floating-point losses, at least one for each sample"):
        gradreg.loss(linear, X, Y, None, loss_fn=loss_fn)


@pytest.mark.slow
def test_keys_and_small_numbers() -> None:
    keys = jax.random.split(jax.random.key(0), len(X))
    noisy = jax.vmap(lambda x, key: x * jax.random.uniform(key, (2,)))
    model = lambda inputs: linear(jnp.tanh(noisy(inputs["x"], inputs["key"])))  # noqa: E731
    arrays = {"x": jnp.asarray(X), "key": keys}
    wanted = gradreg.penalty(lambda x: model({"x": x, "key": keys}), arrays["x"], None, SpectReg(1.0))
    assert float(gradreg.penalty(model, arrays, None, SpectReg(1.0))) == pytest.approx(
        float(wanted), rel=1e-6
    )  # float32
    gradreg.penalty(model, arrays, None, SpectReg(1.0, fraction=0.5))
    with pytest.raises(InputTypeError, match="the input has dtype key"):
        gradreg.penalty(lambda key: linear(noisy(X, key)), keys, None, SpectReg(1.0))
    with pytest.raises(InputTypeError, match="float8_e5m2, and only floating-point inputs of 16 bits or more"):
        gradreg.penalty(lambda x: linear(x.astype("float32")), jnp.asarray(X, "float8_e5m2"), None, SpectReg(1.0))
