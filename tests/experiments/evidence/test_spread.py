"""DataGrad at few steps: the trainings against the paper's trainer and Adam by hand, the command and the page."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_core.presets import DataGrad, WeightDecay
from gradreg_experiments.evidence import spread, ways
from gradreg_experiments.evidence.spread import Run, make_page
from gradreg_experiments.evidence.ways import WAYS, Gradients, Moments, State, train
from gradreg_experiments.paper.protocol import Protocol
from gradreg_experiments.paper.summary import WEIGHT_DECAY
from gradreg_experiments.plan import Plan
from gradreg_experiments.results import Results
from gradreg_experiments.trainers import load_trainer

PUBLISHED = Path(__file__).parents[3] / "docs"
BY_NAME = {way.name: way for way in WAYS}
RATE = 0.1


def advanced(name, setting, every, pairs):
    """The weight after steps with these gradients of loss and penalty, from 1."""
    zeros = {"w": jnp.zeros(2)}
    none = Moments(zeros, zeros, jnp.zeros(()), jnp.zeros(()))
    state = State({"w": jnp.ones(2)}, none, none, zeros)
    for step, (g, p) in enumerate(pairs):
        given = Gradients({"w": jnp.array(g)}, None if p is None else {"w": jnp.array(p)}, step % every)
        state = BY_NAME[name].advance(state, given, RATE, setting, every)
    return np.asarray(state.weights["w"])


def adam(gradients, rate=RATE, betas=(0.9, 0.999), counted=None, weight=1.0):
    """A hand-written Adam in float64; `counted` says which steps the second moment counts."""
    weight, m, v, times = np.full(2, weight), np.zeros(2), np.zeros(2), 0
    for step, g in enumerate(np.array(gradients, float)):
        m = betas[0] * m + (1 - betas[0]) * g
        if counted is None or counted[step]:
            v, times = betas[1] * v + (1 - betas[1]) * g * g, times + 1
        corrected = m / (1 - betas[0] ** (step + 1)), v / (1 - betas[1] ** times)
        weight = weight - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return weight


G = [[1.0, -2.0], [0.5, 3.0], [-1.0, 1.0], [2.0, 0.2]]
P = [[0.3, 4.0], None, [-2.0, 0.1], None]


def added(*factors):
    """The loss's gradients plus the penalty's times a factor each, of the last one that was due."""
    last = [np.array(P[step - step % 2]) for step in range(4)]
    return [np.array(g) + factor * p for g, factor, p in zip(G, factors, last, strict=True)]


def test_ways_are_adam_by_hand():
    """Float32 rounds a few times; the second moment's correction 1 - 0.999 costs a thousandfold, hence 1e-3."""
    pairs = list(zip(G, P, strict=True))
    scale = 2 / (1 + 0.5)
    both, alone = [g for pair in zip(G, P, strict=True) for g in pair if g is not None], np.array(G)
    norms = [np.linalg.norm(g) / np.linalg.norm(p) for g, p in pairs[::2]]
    share = 2 / 3
    wanted = {
        ("multiplied by less than n", 3.0): adam(added(3, 0, 3, 0)),
        ("second moment of plain steps", 3.0): adam(added(3, 0, 3, 0), counted=[True, True, False, True]),
        ("last gradient held", 0.5): adam(added(scale, scale / 2, scale, scale / 2)),
        ("step of its own", 2.0): adam(
            [2 * np.array(g) if g in P else g for g in both], RATE * share, (0.9**share, 0.999**share)
        ),
        ("moments of its own", 4.0): adam(alone) + adam(P[::2], 4 * RATE) - 1,
        ("clipped", 0.5): adam(added(min(2, norms[0] / 2), 0, min(2, norms[1] / 2), 0)),
    }
    for (name, setting), value in wanted.items():
        np.testing.assert_allclose(advanced(name, setting, 2, pairs), value, rtol=1e-3, atol=1e-3, err_msg=name)
    assert {name for name, _ in wanted} == {way.name for way in WAYS if way.meaning}


def plan(reg):
    """Of a small network without dropout, which compiles fast."""
    generator = np.random.default_rng(0)
    network = Network((4,), (Dense(5), Activation("tanh"), Dense(3)))
    params = {path: generator.normal(size=shape).astype(np.float32) for path, shape in network.weights().items()}
    x, y = generator.normal(size=(6, 4)).astype(np.float32), np.arange(6) % 3
    return Plan(network, params, x, y, generator.integers(0, 6, (5, 3)), reg, lambda step: 1e-3)


def test_a_training_with_a_multiple_is_that_of_the_paper_s_trainer():
    """Five steps, two of them due and one in a rest; two programs of XLA in float32: 1e-4 of steps of 1e-3 each."""
    way = replace(BY_NAME["multiplied by less than n"], every=2)
    own = train(plan(DataGrad(0.1)), way, 2.0)
    decay = WeightDecay(WEIGHT_DECAY)
    wanted = load_trainer("jax").train(plan(DataGrad(0.1, every=2) + decay)).params
    start = plan(None).params
    for path, value in wanted.items():
        moved = np.abs(np.asarray(value) - start[path]).max()
        np.testing.assert_allclose(own[path], value, rtol=0, atol=1e-2 * moved + 1e-7, err_msg=path)


def test_costs_are_counted():
    """LeNet with f = 0.31: 2.11 for a step that is due, and two thirds of a plain step more if pulled back apart."""
    costs = {way.name: way.cost for way in WAYS}
    assert costs["multiplied by less than n"] == pytest.approx(1.14, abs=0.005)
    assert max(cost for name, cost in costs.items() if BY_NAME[name].meaning) < 1.15


def test_a_folder_without_runs_gets_a_page_that_says_so(tmp_path):
    options = ["--page-only", "--out", str(tmp_path), "--paper", str(tmp_path / "none")]
    done = CliRunner().invoke(spread.command, options, catch_exceptions=False)
    assert done.exit_code == 0
    assert (tmp_path / "README.md").read_text().count("Not run yet.") == 2


def test_images_are_asked_for(tmp_path):
    done = CliRunner().invoke(spread.command, ["--out", str(tmp_path)])
    assert "expected --data-dir with MNIST's four files, got none" in str(done.exception)


def scored(run, official):
    return {"key": run.key, "accuracy": {"official": official, "test": official}, "cpu_seconds": 1.0, "versions": {}}


def test_each_way_that_does_not_fail_is_trained_and_the_best_thrice():
    results = Results()
    for way in WAYS:
        for place, run in enumerate(spread._tuning(way)):
            results.add(scored(run, 9.8 if way.name.startswith("second") else 90.0 + place))
    first = [run for run in spread._wanted(results) if run.key not in results]
    assert {run.way for run in first} == {way.name for way in WAYS if way.meaning} - {"second moment of plain steps"}
    assert {(run.steps, run.seed) for run in first} == {(10_001, 1)}
    for run in first:
        results.add(scored(run, 97.0 + (run.way == "clipped")))
    last = [run for run in spread._wanted(results) if run.key not in results]
    assert last == [Run("clipped", 12, 4.0, 10_001, seed) for seed in (2, 3)]


def test_the_published_page_is_that_of_the_published_results():
    folder = PUBLISHED / "evidence" / "spread"
    results = Results(folder)
    assert {result["key"] for result in results} <= {run.key for run in spread._wanted(results)}
    assert make_page(results, Results(PUBLISHED / "paper")) == (folder / "README.md").read_text()


def test_the_paper_s_protocol_is_that_of_the_experiment_cost():
    assert replace(Protocol(), before_last="dropout") == ways.PROTOCOL
