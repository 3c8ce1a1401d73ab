"""JAX under its transformations: jit, scan, vmap, sharding."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import FLOAT64, problem, relative
from gradreg_core.presets import (
    DataGrad,
    JacReg,
    SpectReg,
)
from gradreg_core.spec import Regularizer
from jax_cases import STEP, compiled, split, total


@pytest.mark.slow
def test_one_compilation_serves_all_steps() -> None:
    model, x, y = problem("dense")
    reg = SpectReg(lambda step: 0.1 / (1 + step), seed=3, every=2) + DataGrad(0.1)
    traces = []

    @jax.jit
    def value(weights: Any, x: Any, step: Any) -> Any:
        traces.append(step)
        return total(weights, x, y, step, model, reg)[0]

    weights = split(model)[0]
    values = [float(value(weights, jnp.asarray(x), step)) for step in range(4)]
    assert len(traces) == 1
    eager = [float(total(weights, jnp.asarray(x), y, step, model, reg)[0]) for step in range(4)]
    np.testing.assert_allclose(values, eager, rtol=1e-5)  # float32, other order of operations
    assert len({*values}) == 3  # at steps 1 and 3 only the loss and DataGrad count


@pytest.mark.slow
def test_scan_with_a_traced_step(x64: None) -> None:
    model, x, y = problem("dense")
    reg = SpectReg(0.3, every=2, fraction=0.5)

    def descend(weights: Any, step: Any) -> Any:
        value, slope = jax.value_and_grad(lambda w: total(w, jnp.asarray(x), y, step, model, reg)[0])(weights)
        return jax.tree.map(lambda weight, down: weight - 0.1 * down, weights, slope), value

    _, scanned = compiled(lambda weights: jax.lax.scan(descend, weights, jnp.arange(4)))(split(model)[0])
    weights, looped, one_step = split(model)[0], [], compiled(descend)
    for step in range(4):
        weights, value = one_step(weights, step)
        looped.append(float(value))
    np.testing.assert_allclose(scanned, looped, rtol=FLOAT64)


@pytest.mark.slow
def test_vmap_over_an_ensemble(x64: None) -> None:
    model, x, y = problem("dense")
    reg = DataGrad(1.0, every=2) + SpectReg(0.3, projections=2)
    members = [jax.tree.map(lambda weight, s=s: weight * s, split(model)[0]) for s in (0.5, 1.5)]
    stacked = jax.tree.map(lambda *weights: jnp.stack(weights), *members)

    def slope(weights: Any, step: Any) -> Any:
        return jax.value_and_grad(lambda w: total(w, jnp.asarray(x), y, step, model, reg)[0])(weights)

    values, slopes = compiled(jax.vmap(slope))(stacked, jnp.array([0, 1]))
    alone = compiled(slope)
    for index, member in enumerate(members):
        value, wanted = alone(member, index)
        assert float(values[index]) == pytest.approx(float(value), rel=FLOAT64)
        ours = {path: np.asarray(slope[index]) for path, slope in slopes.items()}
        assert relative(ours, {path: np.asarray(slope) for path, slope in wanted.items()}) <= FLOAT64


@pytest.mark.slow
@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64"])
def test_members_of_an_ensemble_draw_what_they_would_alone(x64: None, dtype: str) -> None:
    model, x, y = problem("dense")
    reg = SpectReg(0.3) + JacReg(0.1, fraction=0.5)
    seeds = [0, 3, 2**31 - 1] + [2**40 + 5] * (dtype == "int64")

    def value(reg: Regularizer, seed: Any = None) -> Any:
        return total(split(model)[0], jnp.asarray(x), y, STEP, model, reg, seed=seed)[0]

    values = compiled(jax.vmap(lambda seed: value(reg, seed)))(jnp.array(seeds, dtype))
    for seed, penalty in zip(seeds, values, strict=True):
        own = SpectReg(0.3, seed=seed) + JacReg(0.1, fraction=0.5, seed=seed)
        assert float(penalty) == pytest.approx(float(value(own)), rel=FLOAT64)


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
reg += gradreg.FrobReg(0.3, at="hidden") + gradreg.FrobReg(0.2, of="hidden")
spectral = gradreg.SpectralNormReg(0.1, iterations=1)
fast = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": "True"}


def total(p, x, y, step, reg, **options):
    model = lambda x: gradreg.tap("hidden", jnp.tanh(x @ p["a"])) @ p["b"]
    return gradreg.loss(model, x, y, reg, step=step, params=p, **options)[0]


def error(ours, wanted):
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True))
    return (sum(((np.asarray(a) - b) ** 2).sum() for a, b in pairs) / sum((b**2).sum() for _, b in pairs)) ** 0.5


def slope(reg):
    return jax.jit(jax.value_and_grad(lambda p, x, y, step: total(p, x, y, step, reg)), compiler_options=fast)


assert jax.device_count() == 4
wanted = slope(reg + part)(params, x, y, 4)
for axis_type in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        split = [jax.device_put(array, NamedSharding(mesh, P("data"))) for array in (x, y)]
        copied = jax.device_put(params, NamedSharding(mesh, P()))
        assert error(slope(reg + part)(copied, *split, 4), wanted) < 1e-12, axis_type

# The devices have parts of the parameters, of each layer's rows, or of a layer's outputs and the next one's inputs.
of_rows = {"a": P("data"), "b": P("data")}, jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
shape, axes, types = (2, 2), ("data", "model"), (AxisType.Auto, AxisType.Auto)
of_layers = {"a": P(None, "model"), "b": P("model")}, jax.make_mesh(shape, axes, axis_types=types)
few = gradreg.DataGrad(1.0) + gradreg.SpectReg(0.1)
decayed = few + part + gradreg.WeightDecay(0.1)
whole = slope(decayed)(params, x, y, 4)
for specs, mesh in (of_rows, of_layers):
    split = [jax.device_put(array, NamedSharding(mesh, P("data"))) for array in (x, y)]
    parts = {name: jax.device_put(params[name], NamedSharding(mesh, spec)) for name, spec in specs.items()}
    assert all(not array.is_fully_replicated for array in parts.values())
    assert error(slope(decayed)(parts, *split, 4), whole) < 1e-12, specs

report = gradreg.check(lambda x: jnp.tanh(x @ parts["a"]) @ parts["b"], *split, gradreg.SpectReg(1.0))
assert report.ok, report
assert not report.findings
seen = [(note.partition(" of ")[0], note.partition(" are ")[2]) for note in report.notes]
assert seen == [("2", "split over 4 devices.")] * 2, report

specs = (P(), P("data"), P("data"), P("data"), P())


def mapped(reg, with_ids, size=4, check_vma=True):
    def local(p, x, y, ids, step):
        def value(p):
            options = {"sample_ids": ids if with_ids else None, "normalizer": 16.0}
            own = total(p, x, y, step, reg, **options)
            return jax.lax.psum(own, "data") if check_vma else own

        result = jax.value_and_grad(value)(p)
        return result if check_vma else jax.lax.psum(result, "data")

    mesh = jax.make_mesh((size,), ("data",), axis_types=(AxisType.Auto,))
    shards = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check_vma)
    return jax.jit(shards, compiler_options=fast)(params, x, y, ids, 4)


for terms, size, check_vma in ((reg, 4, True), (few, 2, True), (few, 4, False)):
    assert error(mapped(terms, True, size, check_vma), slope(terms)(params, x, y, 4)) < 1e-12, (size, check_vma)
# Power iteration sees whether draws are marked as varying over the devices: if not, their gradients would be summed.
# Without ids every part draws what the first one draws: another valid draw, not another formula.
alone = slope(spectral)
for check_vma in (True, False):
    assert error(mapped(spectral, True, check_vma=check_vma), alone(params, x, y, 4)) < 1e-12
parts = [alone(params, x[i : i + 4], y[i : i + 4], 4) for i in range(0, 16, 4)]
assert error(mapped(spectral, False), jax.tree.map(lambda *slopes: sum(slopes) / 4, *parts)) < 1e-12
"""


@pytest.mark.slow
def test_sharded_batches_give_the_same(tmp_path: Path) -> None:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-W", "error", "-c", SHARDED]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
