"""JAX against the NumPy reference, and under its transformations: jit, scan, vmap, sharding."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

import gradreg_jax as gradreg
import gradreg_numpy
from cases import FLOAT64, GENERAL, NETWORKS, PRESETS, named, perturbation, problem, relative
from gradreg_core.errors import DoubleBackwardError, InputError, InputTypeError, UnsupportedError
from gradreg_core.portable.networks import Dense, Dropout, MaxPool, Network
from gradreg_core.presets import (
    ConfidencePenalty,
    DataGrad,
    InputFisher,
    JacReg,
    SpectralNormReg,
    SpectReg,
    WeightDecay,
)
from gradreg_core.random import Draws
from gradreg_core.spec import JacobianPenalty, Regularizer, Sum
from gradreg_jax import backend
from gradreg_jax.backend import JaxBackend
from gradreg_jax.networks import apply
from gradreg_numpy.draws import draws as reference_draws

STEP = 2
FEW = Sum((DataGrad(2.0), SpectReg(0.3, seed=7), JacReg(0.5)))
ALL = sum(PRESETS + [each for each in GENERAL if not hasattr(each.terms[0], "fraction") or each.terms[0].fraction == 1])
PARTS = [each for each in GENERAL if getattr(each.terms[0], "fraction", 1) < 1]
CRITICS = sum([*PRESETS[8:12], InputFisher(0.5), ConfidencePenalty(0.2)], FEW)
CASES = [("dense", ALL), *(("dense", each) for each in PARTS), ("critic", CRITICS)]
CASES += [(name, FEW if name == "conv" else Sum(FEW.terms[:2])) for name in NETWORKS if name != "dense"]


@pytest.fixture
def x64() -> Iterator[None]:
    """64-bit types for one test; the setting is local to it."""
    with jax.enable_x64(True):
        yield


def compiled(function: Any) -> Any:
    """`function` under jit, with little optimization: it runs once."""
    options = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": "True"}
    return jax.jit(function, compiler_options=options)


def split(model: gradreg_numpy.Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trainable weights, and the statistics."""
    trained = model.network.weights()
    weights = {path: jnp.asarray(value) for path, value in model.params.items() if path in trained}
    return weights, {path: jnp.asarray(value) for path, value in model.params.items() if path not in trained}


def total(weights: Any, x: Any, y: Any, step: Any, model: gradreg_numpy.Model, reg: Any, **options: Any) -> Any:
    fixed = split(model)[1]
    options = {"params": weights, "batch_norm": "allow"} | options
    return gradreg.loss(lambda x: apply(model.network, weights | fixed, x), x, y, reg, step=step, **options)


def gradients(model: gradreg_numpy.Model, x: Any, y: Any, reg: Any, transform: Any = compiled) -> Any:
    """(total, penalties, gradients by path and for the input)."""
    call = jax.value_and_grad(lambda w, x, step: total(w, x, y, step, model, reg), argnums=(0, 1), has_aux=True)
    (value, parts), (weights, inputs) = transform(call)(split(model)[0], jnp.asarray(x), STEP)
    arrays = {path: np.asarray(each, np.float64) for path, each in weights.items()}
    return float(value), parts.penalty, arrays | {"x": np.asarray(inputs, np.float64)}


def oracle(model: gradreg_numpy.Model, x: Any, y: Any, reg: Regularizer) -> tuple[float, dict[str, Any]]:
    weights, inputs = gradreg_numpy.gradient(model, x, y, reg, step=STEP, of="total")
    return float(gradreg_numpy.loss(model, x, y, reg, step=STEP)[0]), weights | {"x": inputs}


@pytest.mark.parametrize(("name", "reg"), [pytest.param(*each, id=f"{each[0]}-{len(each[1].terms)}") for each in CASES])
def test_compiled_with_a_traced_step_equals_the_reference(x64: None, name: str, reg: Regularizer) -> None:
    model, x, y = problem(name)
    wanted_value, wanted = oracle(model, x, y, reg)
    value, penalties, found = gradients(model, x, y, reg)
    np.testing.assert_allclose(penalties, gradreg_numpy.penalty_terms(model, x, y, reg, step=STEP), rtol=FLOAT64)
    assert abs(value - wanted_value) <= FLOAT64 * abs(wanted_value)
    assert relative(found, wanted) <= FLOAT64


def test_eager_equals_the_reference(x64: None) -> None:
    model, x, y = problem("dense")
    reg = SpectReg(0.3, seed=7)
    wanted_value, wanted = oracle(model, x, y, reg)
    value, _, found = gradients(model, x, y, reg, transform=lambda call: call)
    assert abs(value - wanted_value) <= FLOAT64 * abs(wanted_value)
    assert relative(found, wanted) <= FLOAT64


@pytest.mark.parametrize(
    ("name", "reg"),
    [("dense", DataGrad(2.0)), ("dense", SpectralNormReg(0.4, iterations=3)), ("relu", JacReg(0.5))],
)
def test_float32_is_as_good_as_its_inputs(name: str, reg: Regularizer) -> None:
    model, x, y = problem(name)
    model = gradreg_numpy.Model(model.network, {path: np.float64(np.float32(v)) for path, v in model.params.items()})
    x = np.float64(np.float32(x))
    wanted_value, wanted = oracle(model, x, y, reg)
    moved = perturbation(lambda m, at: gradreg_numpy.gradient(m, at, y, reg, step=STEP, of="total")[0], model, x)
    value, _, found = gradients(model, x, y, reg)
    found.pop("x")
    wanted.pop("x")
    # A right computation rounds at each of some ten layers as much as its inputs do once; wrong ones are off by 1e4 P.
    assert relative(found, wanted) <= 8 * moved
    assert abs(value - wanted_value) <= 8 * 2.0**-24 * abs(wanted_value) * 10


@pytest.mark.parametrize(("bits", "is_compiled", "few"), [(32, False, 1024), (32, True, 0), (64, True, 1024)])
def test_draws_are_bit_identical(bits: int, is_compiled: bool, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_FEW_WORDS", few)  # up to which JAX's own primitive is used
    ids = np.array([0, 1, 2**31 - 1, -5, 7], np.int32)
    seed, step = 2**63 + 12345, 2**33 + 17

    def drawn(source: Any) -> list[Any]:
        found = [source.gaussians(0, (0, 3), 4)]
        if is_compiled:
            found += [source.uniforms(0, (0, 3), 4), source.signs(1, (2, 7), 100), source.integers(0, (0, 3), 1000)]
        return found

    with jax.enable_x64(bits == 64):
        call = lambda ids, step: drawn(Draws(JaxBackend(), seed, step, ids))  # noqa: E731
        call, given = (jax.jit(call), np.int32(step % 2**32)) if is_compiled else (call, step)
        found = call(jnp.asarray(ids), given)
    for mine, reference in zip(found, drawn(reference_draws(seed, step, ids)), strict=True):
        assert mine.dtype == reference.dtype
        np.testing.assert_array_equal(np.asarray(mine), reference)


def test_large_sample_ids_count_modulo_32_bits() -> None:
    model, x, y = problem("dense")
    ids = np.array([2**40 + 3, 2**32, 5, 2**31], np.int64)
    weights = split(model)[0]
    for given in (ids, [int(each) for each in ids], jnp.asarray(ids.astype(np.uint32))):
        found = gradreg.penalty(lambda x: apply(model.network, weights, x), x, None, SpectReg(1.0), sample_ids=given)
        wanted = gradreg_numpy.penalty(model, x, y, SpectReg(1.0), sample_ids=ids)
        assert float(found) == pytest.approx(wanted, rel=1e-5)  # float32 against float64


def test_one_compilation_serves_all_steps() -> None:
    model, x, y = problem("dense")
    reg = SpectReg(lambda step: 0.1 / (1 + step), seed=3, every=2) + DataGrad(0.1)
    traces = []

    @jax.jit
    def value(weights: Any, x: Any, step: Any) -> Any:
        traces.append(step)
        return total(weights, x, y, step, model, reg)[0]

    weights = split(model)[0]
    found = [float(value(weights, jnp.asarray(x), step)) for step in range(4)]
    assert len(traces) == 1
    eager = [float(total(weights, jnp.asarray(x), y, step, model, reg)[0]) for step in range(4)]
    np.testing.assert_allclose(found, eager, rtol=1e-5)  # float32, other order of operations
    assert len({*found}) == 3  # at steps 1 and 3 only the loss and DataGrad count


def test_scan_with_a_traced_step(x64: None) -> None:
    model, x, y = problem("dense")
    reg = SpectReg(0.3, every=2, fraction=0.5)

    def descend(weights: Any, step: Any) -> Any:
        value, slope = jax.value_and_grad(lambda w: total(w, jnp.asarray(x), y, step, model, reg)[0])(weights)
        return jax.tree.map(lambda each, down: each - 0.1 * down, weights, slope), value

    _, scanned = compiled(lambda weights: jax.lax.scan(descend, weights, jnp.arange(4)))(split(model)[0])
    weights, looped, one_step = split(model)[0], [], compiled(descend)
    for step in range(4):
        weights, value = one_step(weights, step)
        looped.append(float(value))
    np.testing.assert_allclose(scanned, looped, rtol=FLOAT64)


def test_steps_that_are_not_due_do_no_work() -> None:
    backward = []

    def seen(w: Any) -> Any:
        backward.append(1)
        return w

    @jax.custom_vjp
    def counted(x: Any) -> Any:
        return x

    counted.defvjp(
        lambda x: (x, None), lambda _, w: (jax.pure_callback(seen, jax.typeof(w), w, vmap_method="sequential"),)
    )

    @jax.jit
    def value(x: Any, step: Any) -> Any:
        reg = DataGrad(1.0, every=3) + JacReg(0.1, every=6)
        return gradreg.loss(lambda x: counted(x) ** 2, x, jnp.zeros(3, int), reg, step=step)[0]

    counts = []
    for step in range(7):
        value(jnp.ones((3, 2)), step).block_until_ready()
        counts.append(len(backward))
        backward.clear()
    assert [count > 0 for count in counts] == [True, False, False, True, False, False, True]
    assert counts[0] > counts[3]


@pytest.mark.parametrize("kind", [int, np.int64, jnp.int32, lambda n: np.array(n), lambda n: jnp.array(n, jnp.uint8)])
def test_a_step_of_any_integer_kind(kind: Any) -> None:
    model, x, _ = problem("dense")
    weights = split(model)[0]
    reg = SpectReg(1.0, every=3)
    values = [
        float(gradreg.penalty(lambda x: apply(model.network, weights, x), x, None, reg, step=kind(step)))
        for step in (2, 3)
    ]
    assert values[0] == 0
    assert values[1] == pytest.approx(gradreg_numpy.penalty(model, x, None, reg, step=3), rel=1e-5)  # float32


@pytest.mark.parametrize("convolves", [False, True])
def test_rows_are_pulled_in_a_loop_unless_there_is_a_convolution_in_it(convolves: bool) -> None:
    def model(x: Any) -> Any:
        if convolves:
            x = jax.lax.conv(x[:, None, None, :], jnp.ones((1, 1, 1, 2)), (1, 1), "VALID")[:, 0, 0]
        return jnp.tanh(x @ jnp.ones((x.shape[1], 3)))

    x = jnp.ones((4, 6))
    program = str(jax.make_jaxpr(lambda x: gradreg.penalty(model, x, None, JacReg(1.0)))(x))
    assert ("scan[" in program) is not convolves


def test_vmap_over_an_ensemble(x64: None) -> None:
    model, x, y = problem("dense")
    reg = DataGrad(1.0, every=2) + SpectReg(0.3, projections=2)
    members = [jax.tree.map(lambda each, s=s: each * s, split(model)[0]) for s in (0.5, 1.5)]
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *members)

    def slope(weights: Any, step: Any) -> Any:
        return jax.value_and_grad(lambda w: total(w, jnp.asarray(x), y, step, model, reg)[0])(weights)

    values, slopes = compiled(jax.vmap(slope))(stacked, jnp.array([0, 1]))
    alone = compiled(slope)
    for index, member in enumerate(members):
        value, wanted = alone(member, index)
        assert float(values[index]) == pytest.approx(float(value), rel=FLOAT64)
        found = {path: np.asarray(each[index]) for path, each in slopes.items()}
        assert relative(found, {path: np.asarray(each) for path, each in wanted.items()}) <= FLOAT64


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64"])
def test_members_of_an_ensemble_draw_what_they_would_alone(x64: None, dtype: str) -> None:
    model, x, y = problem("dense")
    reg = SpectReg(0.3) + JacReg(0.1, fraction=0.5)
    seeds = [0, 3, 2**31 - 1] + [2**40 + 5] * (dtype == "int64")

    def value(reg: Regularizer, seed: Any = None) -> Any:
        return total(split(model)[0], jnp.asarray(x), y, STEP, model, reg, seed=seed)[0]

    found = compiled(jax.vmap(lambda seed: value(reg, seed)))(jnp.array(seeds, dtype))
    for seed, each in zip(seeds, found, strict=True):
        own = SpectReg(0.3, seed=seed) + JacReg(0.1, fraction=0.5, seed=seed)
        assert float(each) == pytest.approx(float(value(own)), rel=FLOAT64)


def test_third_derivatives_exist(x64: None) -> None:
    model, x, y = problem("dense")
    weights = split(model)[0]

    def slope(x: Any) -> Any:
        return jax.grad(lambda w: total(w, x, y, STEP, model, DataGrad(1.0))[0])(weights)["0.weight"].sum()

    slope = jax.jit(slope)
    found = compiled(jax.grad(slope))(jnp.asarray(x))
    h, v = 1e-6, np.random.default_rng(0).normal(size=x.shape)
    difference = (slope(jnp.asarray(x + h * v)) - slope(jnp.asarray(x - h * v))) / (2 * h)
    # Central differences: truncation h^2 = 1e-12, roundoff 1e-16 / h = 1e-10, times a few orders of derivative size.
    assert float((found * v).sum()) == pytest.approx(float(difference), rel=1e-6)


@pytest.mark.parametrize("reg", named([DataGrad(1.0), SpectReg(0.3), JacReg(0.5), SpectralNormReg(0.4)]))
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_models_keep_the_penalty_in_float32(reg: Regularizer, dtype: Any) -> None:
    model, x, y = problem("dense")
    half = {path: jnp.asarray(value, dtype) for path, value in model.params.items()}
    network = lambda x: apply(model.network, half, x)  # noqa: E731
    value, parts = gradreg.loss(network, jnp.asarray(x, dtype), y, reg)
    assert value.dtype == jnp.float32
    assert parts.outputs.dtype == dtype
    wanted = gradreg_numpy.penalty(model, x, y, reg)
    assert float(parts.penalty[0]) == pytest.approx(wanted, rel=0.1)  # ten roundings of 2^-8 in each of two passes


def test_measures_equal_the_reference(x64: None) -> None:
    model, x, y = problem("dense")
    weights = split(model)[0]
    network = lambda x: apply(model.network, weights, x)  # noqa: E731
    exact = compiled(lambda x: gradreg.measure(network, x, y))(x)
    wanted = gradreg_numpy.measure(model, x, y)
    for mine, reference in zip(exact, wanted, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-12)  # roundoff of sums of some tens of squares
    estimated = compiled(lambda x: gradreg.measure(network, x, projections=4))(x)
    # m orthonormal directions are a basis; 30 power iterations leave (s2/s1)^60.
    np.testing.assert_allclose(estimated.frobenius, wanted.frobenius, rtol=1e-12)
    np.testing.assert_allclose(estimated.spectral, wanted.spectral, rtol=1e-6)


def test_a_penalty_on_a_given_direction_and_weighted_samples(x64: None) -> None:
    model, x, y = problem("dense")
    weights = split(model)[0]
    v = np.random.default_rng(0).normal(size=(2, 4, 4))
    options = {"directions": v, "sample_weight": np.array([1.0, 0.0, 2.0, 0.5]), "normalizer": 7.0}
    reg = JacobianPenalty(1.0, projection=gradreg.direction())
    found = gradreg.penalty(lambda x: apply(model.network, weights, x), jnp.asarray(x), None, reg, **options)
    assert float(found) == pytest.approx(float(gradreg_numpy.penalty(model, x, y, reg, **options)), rel=FLOAT64)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import gradreg_jax as gradreg

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
params = {"a": rng.normal(size=(6, 8)) / 2, "b": rng.normal(size=(8, 4)) / 2}
x, y, ids = rng.normal(size=(16, 6)), rng.integers(0, 4, 16), np.arange(16)
part = gradreg.SpectReg(0.1, fraction=0.5, draw="per_batch")
reg = gradreg.SpectReg(0.1, every=2) + gradreg.DataGrad(1.0) + gradreg.FrobReg(0.1)
spectral = gradreg.SpectralNormReg(0.1, iterations=1)
fast = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": "True"}


def total(p, x, y, step, reg, **options):
    return gradreg.loss(lambda x: jnp.tanh(x @ p["a"]) @ p["b"], x, y, reg, step=step, params=p, **options)[0]


def error(found, wanted):
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True))
    return (sum(((np.asarray(a) - b) ** 2).sum() for a, b in pairs) / sum((b**2).sum() for _, b in pairs)) ** 0.5


def slope(reg):
    return jax.jit(jax.value_and_grad(lambda p, x, y, step: total(p, x, y, step, reg)), compiler_options=fast)


assert jax.device_count() == 4
wanted = slope(reg + part)(params, x, y, 4)
for axis_type in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        split = [jax.device_put(each, NamedSharding(mesh, P("data"))) for each in (x, y)]
        copied = jax.device_put(params, NamedSharding(mesh, P()))
        assert error(slope(reg + part)(copied, *split, 4), wanted) < 1e-12, axis_type

specs = (P(), P("data"), P("data"), P("data"), P())
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))


def mapped(reg, with_ids):
    def local(p, x, y, ids, step):
        def value(p):
            options = {"sample_ids": ids if with_ids else None, "normalizer": 16.0}
            return jax.lax.psum(total(p, x, y, step, reg, **options), "data")

        return jax.value_and_grad(value)(p)

    shards = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())
    return jax.jit(shards, compiler_options=fast)(params, x, y, ids, 4)


assert error(mapped(reg, True), slope(reg)(params, x, y, 4)) < 1e-12
# Power iteration sees whether draws are marked as varying over the devices: if not, their gradients would be summed.
# Without ids every part draws what the first one draws: another valid draw, not another formula.
alone = slope(spectral)
assert error(mapped(spectral, True), alone(params, x, y, 4)) < 1e-12
parts = [alone(params, x[i : i + 4], y[i : i + 4], 4) for i in range(0, 16, 4)]
assert error(mapped(spectral, False), jax.tree.map(lambda *each: sum(each) / 4, *parts)) < 1e-12
"""


def test_sharded_batches_give_the_same(tmp_path: Path) -> None:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-W", "error", "-c", SHARDED]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


# --- errors -----------------------------------------------------------------------------------------------------------
def linear(x: Any) -> Any:
    return x @ jnp.arange(6.0).reshape(2, 3)


def loop(x: Any) -> Any:
    return jax.lax.while_loop(lambda pair: pair[0] < 3, lambda pair: (pair[0] + 1, pair[1] * 2), (0, x))[1]


X, Y = np.ones((4, 2), np.float32), np.array([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"x": np.ones((4, 2), int)}, InputTypeError, "input has dtype int32, and only floating-point inputs"),
        ({"x": [[1.0, 2.0]]}, InputTypeError, "x must be an array of the jax backend, got builtins.list"),
        ({"x": np.ones((0, 2))}, InputError, "at least one sample"),
        ({"y": np.array([0, 1, 3, 0])}, InputError, r"labels must lie in 0..2 for 3 outputs, got values from 0 to 3"),
        ({"y": np.array([0, 1])}, InputError, r"expected integer class labels of shape \(4,\)"),
        ({"y": "abcd"}, InputTypeError, "y must be an array of labels, got str"),
        ({"y": [[0], [1, 2]]}, InputTypeError, "y must be an array of labels, got list"),
        ({"y": None}, InputError, "needs labels, but y is None"),
        ({"model": lambda x: linear(x) * np.nan}, InputError, "outputs of sample 0 are NaN or infinite"),
        ({"model": lambda x: linear(x).sum(0)}, InputError, r"expected outputs of shape \(4, ...\)"),
        ({"model": lambda x: {"logits": linear(x)}}, InputTypeError, "one array of floating-point outputs, got dict"),
        ({"model": lambda x: linear(x).astype(int)}, InputTypeError, "floating-point outputs, got .* of int32"),
        ({"step": -1}, InputError, "step must be at least 0"),
        ({"step": True}, InputTypeError, "step must be an integer, got True"),
        ({"reg": DataGrad(1.0, at="hidden")}, UnsupportedError, "jax backend has no names for activations"),
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
        DoubleBackwardError, match=r"no second derivative, or not even a first .*while_loop.*Use lax.scan"
    ):
        call(lambda x: linear(loop(x)), X, Y, *rest)


def test_other_errors_of_the_model_stay_as_they_are() -> None:
    with pytest.raises(TypeError, match="dot_general requires contracting dimensions"):
        gradreg.loss(lambda x: x @ jnp.ones((3, 3)), X, Y, DataGrad(1.0))


# --- check ------------------------------------------------------------------------------------------------------------
W = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)
POINTS = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)


def network(x: Any) -> Any:
    return jnp.tanh(x @ W)


SOUND: list[Regularizer] = [DataGrad(0.1, every=5, fraction=0.5) + WeightDecay(0.1), ConfidencePenalty(1.0)]


@pytest.mark.parametrize("reg", named(SOUND))
def test_check_passes_a_sound_model(reg: Regularizer) -> None:
    report = gradreg.check(network, POINTS, Y, reg, params=W, step=1)
    assert report.ok, report
    assert not report.findings


@pytest.mark.parametrize(
    ("model", "level", "problem"),
    [
        (lambda x: network(jax.lax.stop_gradient(x)), "error", "x does not reach the outputs"),
        (lambda x: network(jnp.round(x)), "error", "x does not reach the outputs"),
        (lambda x: network((x - x.mean(0)) / x.std(0)), "warning", "depends on other samples of the batch"),
        (lambda x: network(x) + jnp.linalg.norm(0 * x @ W) + W[0], "error", "gradient is NaN or infinite"),
        (lambda x: network(x) * jnp.nan, "error", "outputs of sample 0 are NaN"),
        (lambda x: network(loop(x)), "error", "no second derivative, or not even a first"),
    ],
    ids=["stopped", "rounded", "coupled", "nan", "nan outputs", "loop"],
)  # fmt: skip
def test_check_finds(model: Any, level: str, problem: str) -> None:
    report = gradreg.check(model, POINTS, Y, SpectReg(1.0))
    assert [finding for finding in report.findings if finding.level == level and problem in finding.problem], report
    assert report.ok == (level == "warning")


def square_by_callback(x: Any) -> Any:
    return jax.pure_callback(lambda x: x**2, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def square_by_kernel(x: Any) -> Any:
    def kernel(source: Any, target: Any) -> None:
        target[...] = source[...] ** 2

    return pallas.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)


@pytest.mark.parametrize("square", [square_by_callback, square_by_kernel])
def test_check_finds_an_operation_without_a_second_derivative(square: Any) -> None:
    @jax.custom_vjp
    def cube(x: Any) -> Any:
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, w: (3 * square(x) * w,))
    report = gradreg.check(lambda x: network(cube(x)), POINTS, Y, SpectReg(1.0))
    assert not report.ok
    with pytest.raises(DoubleBackwardError, match=r"no second derivative.*jax.custom_jvp"):
        report.raise_if_failed()


def test_check_takes_a_model_that_looks_at_values() -> None:
    assert gradreg.check(lambda x: network(x) if x[0, 0] > 0 else network(2 * x), POINTS, Y, DataGrad(1.0)).ok


def test_check_finds_a_wrong_second_derivative() -> None:
    @jax.custom_vjp
    def cube(x: Any) -> Any:
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, w: (3 * jax.lax.stop_gradient(x) ** 2 * w,))
    report = gradreg.check(lambda x: network(cube(x)), POINTS, Y, SpectReg(1.0))
    assert "differs from finite differences" in str(report)


# --- portable networks ------------------------------------------------------------------------------------------------
def test_the_first_of_equal_maxima_takes_the_derivative() -> None:
    pool = Network((5, 4, 1), (MaxPool(2),))
    x = jnp.zeros((1, 5, 4, 1)).at[0, 1, 1].set(1).at[0, 2, 3].set(1).at[0, 3, 2].set(1)
    slope = jax.grad(lambda x: apply(pool, {}, x).sum())(x)
    expected = np.zeros((5, 4))
    for place in [(1, 1), (0, 2), (2, 0), (2, 3)]:
        expected[place] = 1
    np.testing.assert_array_equal(slope[0, :, :, 0], expected)
    assert np.isnan(apply(pool, {}, x.at[0, 0, 0].set(jnp.nan))[0, 0, 0, 0])
    assert np.isnan(apply(pool, {}, x.at[0, 1, 1].set(jnp.nan))[0, 0, 0, 0])


def test_dropout_masks_are_applied_by_path() -> None:
    net = Network((3,), (Dropout(), Dense(2)))
    params = {"1.weight": jnp.ones((3, 2)), "1.bias": jnp.zeros(2)}
    mask = np.array([[0.0, 2.0, 2.0]])
    np.testing.assert_array_equal(apply(net, params, np.ones((1, 3)), {"0": mask}), [[4, 4]])
    np.testing.assert_array_equal(apply(net, params, np.ones((1, 3))), [[3, 3]])
