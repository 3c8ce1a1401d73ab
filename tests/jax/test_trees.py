"""Nested structures: paths, what leaves a transformed function, several arguments as a pytree."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import child
import gradreg_jax as gradreg
from gradreg_jax.trees import Carrier, flatten, floating_leaves


@dataclass
class Output:
    """A structure that JAX does not know."""

    logits: Any
    name: str


def test_paths_and_rebuilding() -> None:
    structure = {"b": [np.ones(2), None], "a": (Output(jnp.zeros(3), "text"), 7)}
    leaves, rebuild = flatten(structure)
    assert [path for path, _ in leaves] == ["a.0.logits", "a.0.name", "a.1", "b.0"]
    again = rebuild([leaf for _, leaf in leaves])
    assert again["b"][1] is None
    assert again["a"][0].name == "text"
    assert flatten(np.ones(2))[0][0][0] == ""


def test_floating_leaves_alone_are_replaced() -> None:
    leaves, rebuild = floating_leaves((np.ones(2), np.arange(2), "text"))
    assert [path for path, _ in leaves] == ["0"]
    np.testing.assert_array_equal(rebuild([np.zeros(2)])[0], 0)
    assert rebuild([np.zeros(2)])[2] == "text"


def test_any_structure_leaves_a_transformed_function() -> None:
    carrier = Carrier()

    def run(x: Any) -> Any:
        return x**2, carrier.pack({"seen": Output(2 * x, "text"), "count": 3})

    _, _, aux = jax.vjp(run, jnp.ones(2), has_aux=True)
    carried = carrier.unpack(aux)
    np.testing.assert_array_equal(carried["seen"].logits, 2)
    assert (carried["seen"].name, carried["count"]) == ("text", 3)


def test_objects_hand_on_the_arrays_in_their_attributes() -> None:
    class Plain:
        def __init__(self, logits: Any) -> None:
            self.logits, self.more, self.name = logits, {"twice": 2 * logits}, "text"

    weight = np.ones((2, 3))
    _, parts = gradreg.loss(lambda x: Plain(x @ weight), np.ones((4, 2)), np.arange(4) % 3, gradreg.SpectReg(1.0))
    np.testing.assert_array_equal(parts.outputs.logits, 2)
    np.testing.assert_array_equal(parts.outputs.more["twice"], 4)
    assert type(parts.outputs) is Plain
    assert parts.outputs.name == "text"


def test_several_arguments_are_a_pytree_before_any_call() -> None:
    code = "import jax, gradreg_jax as g; print(jax.jit(lambda x: x.args[0] + x.kwargs['b'])(g.Inputs(1.0, b=2.0)))"
    done = child.run("-c", code)
    assert done.stdout.strip() == "3.0", done.stderr
