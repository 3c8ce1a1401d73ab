"""Twenty ports between PyTorch, Flax and Keras: each right, and with one mistake of the kind that people make.

A port is a function of `wrong` that gives the arguments of validate. `layer` is the first model's layer that must be
named when it is wrong, `words` what the cause must say.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["PORTS", "Port"]


@dataclass(frozen=True)
class Port:
    """A port, right or wrong."""

    title: str
    to: str
    mistake: str
    layer: str
    words: str
    make: Callable[[bool], dict[str, Any]]


PORTS: dict[str, Port] = {}
LAST = (0, 2, 3, 1)
"""Channels-first images as channels-last."""


def port(to: str, mistake: str, layer: str, words: str) -> Callable[[Callable[[bool], dict[str, Any]]], Any]:
    def registered(make: Callable[[bool], dict[str, Any]]) -> Callable[[bool], dict[str, Any]]:
        PORTS[make.__name__] = Port((make.__doc__ or "").rstrip("."), to, mistake, layer, words, make)
        return make

    return registered


def seeded(module: nn.Module) -> nn.Module:
    """The module with weights, biases and statistics that all differ."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, array in [*module.named_parameters(), *module.named_buffers()]:
            if array.is_floating_point():
                noise = torch.randn(array.shape, generator=generator)
                if array.ndim > 1:
                    array.copy_(noise / array[0].numel() ** 0.5)
                elif name.endswith("running_var") or (name.endswith("weight") and array.ndim == 1):
                    array.copy_(1 + 0.3 * noise.abs())
                else:
                    array.copy_(0.3 * noise)
    return module.eval()


def state(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def keras_model(inputs: Any, outputs: Any, weights: dict[str, np.ndarray]) -> Any:
    import keras

    model = keras.Model(inputs, outputs)
    for variable in model.variables:
        path = next((path for path in weights if variable.path.endswith(path)), None)
        if path is not None:
            variable.assign(weights[path])
    return model


def kernel(array: np.ndarray) -> np.ndarray:
    """A PyTorch kernel in the layout of Keras and Flax."""
    return np.moveaxis(array, (0, 1), (-1, -2))


def norm(array: dict[str, np.ndarray], name: str, to: str) -> dict[str, np.ndarray]:
    """The four arrays of a batch normalisation by their names in Keras."""
    return {
        f"{to}/gamma": array[f"{name}.weight"],
        f"{to}/beta": array[f"{name}.bias"],
        f"{to}/moving_mean": array[f"{name}.running_mean"],
        f"{to}/moving_variance": array[f"{name}.running_var"],
    }


class ResNetBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.short = nn.Conv2d(2, 4, 1, stride=2, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)) + self.short(x))
        return self.head(h.mean((2, 3)))


@port("Keras", 'stride 2 with Keras\' "same" padding', "conv1", "padding [(0, 1), (0, 1)]")
def resnet(wrong: bool) -> dict[str, Any]:
    """ResNet block."""
    import keras

    layers, net = keras.layers, seeded(ResNetBlock())
    old, x = state(net), keras.Input((6, 6, 2))
    h = x if wrong else layers.ZeroPadding2D(1)(x)
    padding = "same" if wrong else "valid"
    h = layers.Conv2D(4, 3, 2, padding=padding, use_bias=False, name="conv1")(h)
    h = layers.ReLU()(layers.BatchNormalization(epsilon=1e-5, name="bn1")(h))
    h = layers.BatchNormalization(epsilon=1e-5, name="bn2")(
        layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv2")(h)
    )
    h = layers.ReLU()(layers.add([h, layers.Conv2D(4, 1, 2, use_bias=False, name="short")(x)]))
    y = layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(h))
    weights = {f"{name}/kernel": kernel(old[f"{name}.weight"]) for name in ("conv1", "conv2", "short", "head")}
    weights |= {"head/bias": old["head.bias"], **norm(old, "bn1", "bn1"), **norm(old, "bn2", "bn2")}
    return {"first": net, "second": keras_model(x, y, weights), "x": draw(2, 2, 6, 6), "inputs": (None, LAST)}


class BertLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(8, eps=1e-12), nn.LayerNorm(8, eps=1e-12)
        self.up, self.act, self.down = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)

    def forward(self, x: Any, mask: Any) -> Any:
        q, k, v = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.query, self.key, self.value))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.bool()[:, None, None, :])
        h = self.norm1(x + self.out(h.transpose(1, 2).flatten(2)))
        return self.norm2(h + self.down(self.act(self.up(h))))


MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])


def tokens(x: np.ndarray, mask: np.ndarray = MASK) -> Any:
    from gradreg_core import Inputs

    return Inputs(x, mask)


@port("Flax NNX", "the mask read as True = drop", "out", "as a mask of what is dropped")
def bert(wrong: bool) -> dict[str, Any]:
    """BERT layer with a padding mask."""
    import jax
    from flax import nnx

    net = seeded(BertLayer())

    class Layer(nnx.Module):
        def __init__(self) -> None:
            old = state(net)
            for name in ("query", "key", "value", "out", "up", "down"):
                setattr(self, name, linear(old, name))
            self.norm1, self.norm2 = (layer_norm(old, name, 1e-12) for name in ("norm1", "norm2"))

        def __call__(self, x: Any, mask: Any) -> Any:
            q, k, v = (part(x).reshape(*x.shape[:2], 2, 4) for part in (self.query, self.key, self.value))
            scores = jax.numpy.einsum("bqhd,bkhd->bhqk", q, k) / 2.0
            keep = (mask == (0 if wrong else 1))[:, None, None, :]
            weights = jax.nn.softmax(jax.numpy.where(keep, scores, -1e9), -1)
            h = jax.numpy.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
            h = self.norm1(x + self.out(h))
            return self.norm2(h + self.down(jax.nn.gelu(self.up(h), approximate=False)))

    return {"first": net, "second": Layer(), "x": tokens(draw(2, 5, 8))}


def linear(old: dict[str, np.ndarray], name: str) -> Any:
    from flax import nnx

    weight, bias = old[f"{name}.weight"], old.get(f"{name}.bias")
    layer = nnx.Linear(weight.shape[1], weight.shape[0], use_bias=bias is not None, rngs=nnx.Rngs(0))
    layer.kernel.set_value(weight.T.copy())
    if bias is not None:
        layer.bias.set_value(bias)
    return layer


def layer_norm(old: dict[str, np.ndarray], name: str, epsilon: float) -> Any:
    from flax import nnx

    layer = nnx.LayerNorm(len(old[f"{name}.weight"]), epsilon=epsilon, rngs=nnx.Rngs(0))
    layer.scale.set_value(old[f"{name}.weight"])
    layer.bias.set_value(old[f"{name}.bias"])
    return layer


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.rnn, self.head = kind(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.rnn(x)[0])


def recurrent(kind: Any, keras_kind: Any, order: tuple[int, ...], both: bool) -> dict[str, Any]:
    import keras

    net = seeded(Recurrent(kind))
    old, x = state(net), keras.Input((5, 3))
    y = keras.layers.Dense(2, name="head")(keras_kind(4, return_sequences=True, name="rnn")(x))

    def gates(array: np.ndarray) -> np.ndarray:
        return np.concatenate([np.split(array, len(order))[i] for i in order])

    biases = [gates(old[f"rnn.bias_{part}_l0"]) for part in ("ih", "hh")]
    weights = {"rnn/" + cell + "/kernel": gates(old["rnn.weight_ih_l0"]).T for cell in ("lstm_cell", "gru_cell")}
    weights |= {f"{cell}/recurrent_kernel": gates(old["rnn.weight_hh_l0"]).T for cell in ("lstm_cell", "gru_cell")}
    bias = np.stack(biases) if both else sum(biases)
    weights |= {"lstm_cell/bias": bias, "gru_cell/bias": bias}
    weights |= {"head/kernel": old["head.weight"].T, "head/bias": old["head.bias"]}
    model = keras_model(x, y, {key.replace("rnn/", ""): value for key, value in weights.items()})
    names: list[Any] = [
        ("rnn.weight_ih_l0", "gru_cell/kernel" if both else "lstm_cell/kernel", lambda array: gates(array).T),
        ("rnn.weight_hh_l0", "recurrent_kernel", lambda array: gates(array).T),
        ("head.weight", "head/kernel"),
        ("head.bias", "head/bias"),
    ]
    return {"first": net, "second": model, "x": draw(2, 5, 3), "parameters": names, "layers": ["rnn", "head"]}


@port("Keras", "gates copied without reordering", "rnn", "gates in the order")
def lstm(wrong: bool) -> dict[str, Any]:
    """LSTM."""
    import keras

    return recurrent(nn.LSTM, keras.layers.LSTM, (0, 2, 1, 3) if wrong else (0, 1, 2, 3), both=False)


@port("Keras", "gates copied without reordering", "rnn", "gates in the order")
def gru(wrong: bool) -> dict[str, Any]:
    """GRU."""
    import keras

    return recurrent(nn.GRU, keras.layers.GRU, (0, 1, 2) if wrong else (1, 0, 2), both=True)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(4, 3, 2, stride=2), nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x: Any) -> Any:
        left = F.relu(self.down(x))
        h = self.up(F.relu(self.inner(F.max_pool2d(left, 2))))
        return self.last(torch.cat([left, h], 1))


@port("Keras", "skip and upsampled joined in the other order", "last", "joined along axis 1")
def unet(wrong: bool) -> dict[str, Any]:
    """U-Net."""
    import keras

    layers, net = keras.layers, seeded(UNet())
    old, x = state(net), keras.Input((4, 4, 2))
    left = layers.ReLU()(layers.Conv2D(3, 3, padding="same", name="down")(x))
    h = layers.ReLU()(layers.Conv2D(4, 3, padding="same", name="inner")(layers.MaxPooling2D(2)(left)))
    h = layers.Conv2DTranspose(3, 2, 2, name="up")(h)
    y = layers.Conv2D(2, 3, padding="same", name="last")(layers.concatenate([h, left] if wrong else [left, h]))
    weights = {f"{name}/kernel": kernel(old[f"{name}.weight"]) for name in ("down", "inner", "up", "last")}
    weights |= {f"{name}/bias": old[f"{name}.bias"] for name in ("down", "inner", "up", "last")}
    model = keras_model(x, y, weights)
    return {"first": net, "second": model, "x": draw(2, 2, 4, 4), "inputs": (None, LAST), "class_axis": (1, -1)}


class ViTBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8, eps=1e-6), nn.LayerNorm(8, eps=1e-6)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Any) -> Any:
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, t, 3, 2, 4).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d)
        x = x + self.proj(h)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


@port("Flax NNX", "attention scaled by 1/sqrt(all features)", "proj", "scale 1/sqrt(all features)")
def vit(wrong: bool) -> dict[str, Any]:
    """ViT block, queries, keys and values from one layer."""
    import jax
    from flax import nnx

    net = seeded(ViTBlock())

    class Block(nnx.Module):
        def __init__(self) -> None:
            old = state(net)
            self.norm1, self.norm2 = (layer_norm(old, name, 1e-6) for name in ("norm1", "norm2"))
            self.qkv, self.proj = linear(old, "qkv"), linear(old, "proj")
            self.fc1, self.fc2 = linear(old, "fc1"), linear(old, "fc2")

        def __call__(self, x: Any) -> Any:
            q, k, v = jax.numpy.split(self.qkv(self.norm1(x)), 3, -1)
            q, k, v = (part.reshape(*x.shape[:2], 2, 4) for part in (q, k, v))
            scores = jax.numpy.einsum("bqhd,bkhd->bhqk", q, k) * (8**-0.5 if wrong else 4**-0.5)
            h = jax.numpy.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v).reshape(x.shape)
            x = x + self.proj(h)
            return x + self.fc2(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False))

    return {"first": net, "second": Block(), "x": draw(2, 5, 8)}
