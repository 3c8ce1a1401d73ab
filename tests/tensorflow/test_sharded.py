"""Replicas of tf.distribute have the penalty and the gradient of one device with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MIRRORED = """
import numpy as np, tensorflow as tf
import gradreg_tensorflow as gradreg

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
rng = np.random.default_rng(0)
x, weight = rng.normal(size=(11, 5)), rng.uniform(0.5, 1.0, size=11)
y, start = rng.integers(0, 3, 11), [rng.normal(size=(5, 6)), rng.normal(size=(6, 3))]
reg = gradreg.DataGrad(1.0) + gradreg.SpectReg(0.5, seed=3) + gradreg.FrobReg(0.3) + gradreg.SpectReg(0.1, every=2)
TAKEN = {1: [11], 2: [6, 5], 4: [3, 3, 3, 2]}  # the last replica has fewer samples


def trained(strategy, size):
    cuts = np.split(np.arange(11), np.cumsum(TAKEN[size])[:-1])
    with strategy.scope():
        weights = [tf.Variable(value) for value in start]

    def local(x, y, ids, weight):
        with tf.GradientTape() as tape:
            model = lambda x: tf.tanh(x @ weights[0]) @ weights[1]
            options = {"sample_ids": ids, "normalizer": 11.0, "sample_weight": weight}
            total = gradreg.loss(model, x, y, reg, step=4, **options)[0]
        gradients = tape.gradient(total, weights)
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, [total, *gradients])

    @tf.function
    def step():
        def given(array):
            parts = [tf.constant(array[cut]) for cut in cuts]
            take = lambda context: parts[context.replica_id_in_sync_group]
            return strategy.experimental_distribute_values_from_function(take)

        return strategy.run(local, args=tuple(given(array) for array in (x, y, np.arange(11), weight)))

    return [np.asarray(strategy.experimental_local_results(value)[-1]) for value in step()]


wanted = trained(tf.distribute.get_strategy(), 1)
one_by_one = tf.distribute.ReductionToOneDevice()  # a process has one group of collectives
for size, way in ((2, one_by_one), (4, None)):
    devices = [f"CPU:{index}" for index in range(size)]
    came = trained(tf.distribute.MirroredStrategy(devices, cross_device_ops=way), size)
    for ours, other in zip(came, wanted, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-12, atol=1e-14)  # sums of eleven in another order, in float64
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    weights = [tf.Variable(value) for value in start]
report = gradreg.check(lambda x: tf.tanh(x @ weights[0]) @ weights[1], tf.constant(x), y, reg)
assert report.ok and not report.findings, report
seen = "its variables belong to a MirroredStrategy with 2 replicas; only one was checked."
assert report.notes == (seen,), report
print("equal")
"""


@pytest.mark.slow
def test_replicas_in_a_loop_of_ones_own_give_the_same(tmp_path: Path) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", MIRRORED]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("equal\n")
