"""A Keras model against PyTorch's, right and wrong, on the backend of KERAS_BACKEND: prints a line of JSON."""

import json
from typing import Any

import keras
import numpy as np
import torch

from gradreg_validation import validate

X = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
Y = np.array([0, 1, 2, 0])


def ported(net: Any, second: str) -> Any:
    """The report on a port of the network whose second activation is as given."""
    layers = [keras.layers.Dense(6, "tanh", name="a"), keras.layers.Dense(4, name="b"), keras.layers.Dense(3, name="c")]
    activation = keras.layers.Activation(second, name="act")
    model = keras.Sequential([keras.layers.Input((5,)), *layers[:2], activation, layers[2]])
    for layer, old in zip(layers, net[::2], strict=True):
        layer.set_weights([old.weight.detach().numpy().T, old.bias.detach().numpy()])
    before = [np.array(value) for value in model.get_weights()]
    report = validate(net, model, X, Y, mapping="proposed", repeats=2)
    assert all(np.array_equal(one, two) for one, two in zip(before, model.get_weights(), strict=True))
    return report


def main() -> None:
    """Print both reports, shortened."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4), torch.nn.GELU(), torch.nn.Linear(4, 3))
    )
    right, wrong = ported(net, "gelu"), ported(net, "silu")
    rows = [row.quantity for row in right.rows]
    print(
        json.dumps(
            {
                "ok": right.ok,
                "rows": rows,
                "layers": len(right.layers),
                "wrong": wrong.first_divergence,
                "cause": wrong.cause,
                "backend": right.backends[1],
            }
        )
    )


if __name__ == "__main__":
    main()
