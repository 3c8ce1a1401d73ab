"""The recipes of docs/jax.md and docs/jax-modules.md as they stand."""

import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

DOCS = Path(__file__).parents[2] / "docs"
TEXT = "\n".join((DOCS / page).read_text() for page in ("jax.md", "jax-modules.md"))
SECTIONS = {part.partition("\n")[0].strip("# "): part for part in re.split(r"^(?=##? )", TEXT, flags=re.M)}
SECTIONS.pop("", None)
SECTIONS.pop("Flax and Equinox")  # a heading over recipes


@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS)
def test_the_documentation_runs(title: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", SECTIONS[title], flags=re.M | re.S)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, title, "exec"), names)
    if title == "Many devices":
        for other in ("sharded", "mapped"):
            for mine, wanted in zip(names[other], names["alone"], strict=True):
                np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-6)  # float32 sums in another order
    elif title == "Convolutions on the CPU":
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 28, 28, 1)), jnp.float32)
        stock = nnx.Conv(1, 6, (5, 5), rngs=nnx.Rngs(0))
        np.testing.assert_allclose(names["layer"](x), stock(x), rtol=1e-5, atol=1e-6)  # float32 sums in another order
    else:
        losses = np.asarray(names["losses"])
        assert np.isfinite(losses).all()
        assert losses[-5:].mean() < losses[:5].mean()


def test_every_recipe_is_there() -> None:
    flax = {"Flax NNX", "Flax Linen"}
    others = {"gradreg in JAX", "A whole run in one scan", "An ensemble in one program", "Equinox"}
    others |= {"Convolutions on the CPU", "Many devices"}
    assert set(SECTIONS) == flax | others
