"""The diffs in the guides are small, and what they add is what the page runs, or works here, in the same places."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from documents import DOCS, blocks

CHANGED = 2
"""The most lines of your own loop that may change, without imports of gradreg."""
GUIDES = ("training-loop", "keras", "lightning", "transformers", "devices", "watch")
DIFFS = [
    pytest.param(guide, diff, id=f"{guide}-{number}")
    for guide in GUIDES
    for number, diff in enumerate(
        re.findall(r"^```diff\n(.*?)^```$", (DOCS / "guides" / f"{guide}.md").read_text(), re.M | re.S)
    )
]
TORCH = """
import torch
from torch import nn
import torch.nn.functional as F
import gradreg_torch as gradreg

torch.manual_seed(0)
model = ddp = nn.Linear(6, 3).double()
x, y = torch.tensor(images), torch.tensor(labels)
ids = torch.arange(whole)
"""
JAX = """
import jax.numpy as jnp
import optax
import gradreg_jax as gradreg

params = {"w": jnp.ones((6, 3))}
x, y, ids = jnp.asarray(images), jnp.asarray(labels), jnp.arange(whole)
model = lambda x: x @ params["w"]
loss = lambda params, x, y: optax.softmax_cross_entropy_with_integer_labels(x @ params["w"], y).mean()
"""
TENSORFLOW = """
import tensorflow as tf
import gradreg_tensorflow as gradreg

weights = tf.constant(np.ones((6, 3)))
model = lambda x: x @ weights
x, y, ids = tf.constant(images), tf.constant(labels), tf.range(whole)
reduce = tf.reduce_sum if distributed else tf.reduce_mean
loss_object = lambda y, z: reduce(tf.nn.sparse_softmax_cross_entropy_with_logits(y, z))
"""
MONITOR = """
from gradreg_core import SpectReg
from gradreg_monitor import Monitor

reg, x_valid, y_valid = SpectReg(0.1), images, labels
monitor = Monitor(x_valid, y_valid, reg)
made = []
Trainer = lambda *args, **options: made.append(options)
model, x, y, args, data = SimpleNamespace(fit=Trainer), images, labels, None, None
"""


def changes(diff: str) -> tuple[list[str], list[str]]:
    """(added, removed) lines."""
    lines = diff.splitlines()
    added, removed = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "+-")
    return [line for line in added if not line.startswith("from gradreg")] or added, removed


@pytest.mark.parametrize(("guide", "diff"), DIFFS)
def test_at_most_two_lines_change(guide: str, diff: str) -> None:
    added, removed = changes(diff)
    assert 0 < len(added) <= CHANGED
    assert len(removed) <= CHANGED


@pytest.mark.parametrize(("guide", "diff"), [given for given in DIFFS if given.values[0] not in ("devices", "watch")])
def test_the_page_runs_what_is_added(guide: str, diff: str) -> None:
    code = "\n".join(piece for _, _, piece in blocks((DOCS / "guides" / f"{guide}.md").read_text()))
    for line in changes(diff)[0]:
        assert re.sub(r"^return |\[0\]$", "", line) in code, line


def names(given: str, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {"np": np, "SimpleNamespace": SimpleNamespace, "whole": 4, "step": 0, **more}
    values |= {"images": rng.normal(size=(4, 6)), "labels": np.arange(4) % 3}
    values["dist"] = SimpleNamespace(get_world_size=lambda: 1)
    exec(given, values)
    return values


@pytest.mark.parametrize(
    ("guide", "diff"), [given for given in DIFFS if given.values[0] in ("devices", "training-loop")]
)
def test_without_a_regularizer_the_loss_stays_what_it_was(guide: str, diff: str) -> None:
    """The line that goes and the line that comes, run on one batch by one process."""
    added, removed = changes(diff)
    given = JAX if "params" in diff else TENSORFLOW if "loss_object" in diff else TORCH
    totals = []
    for line in (removed[-1], added[-1]):
        values = names(given, distributed=guide == "devices") | {"reg": None}
        exec(re.sub(r"^(return|total, \w+ =|total =)", "total =", line), values)
        total = values["total"][0] if isinstance(values["total"], tuple) else values["total"]
        totals.append(float(total.detach() if given is TORCH else total))
    assert totals[1] == pytest.approx(totals[0], rel=1e-6)  # JAX computes in float32


@pytest.mark.parametrize(("guide", "diff"), [given for given in DIFFS if given.values[0] == "watch"])
def test_a_loop_takes_the_callback(guide: str, diff: str) -> None:
    values = names(MONITOR)
    exec("\n".join(line[1:] for line in diff.splitlines() if line.startswith("+")), values)
    (callback,) = values["made"][0]["callbacks"]
    assert isinstance(callback, values["MonitorCallback"])
