"""The rest of the twenty ports; see :mod:`instruments.validation.real_ports`."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from instruments.validation.real_ports import LAST, draw, keras_model, kernel, layer_norm, linear, port, seeded, state

__all__: list[str] = []


def convolutions(net: nn.Module, *names: str) -> dict[str, np.ndarray]:
    old = state(net)
    weights = {f"{name}/kernel": kernel(old[f"{name}.weight"]) for name in names}
    return weights | {f"{name}/bias": old[f"{name}.bias"] for name in names if f"{name}.bias" in old}


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.deep, self.point = nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.Conv2d(6, 4, 1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.head(F.relu6(self.norm(self.point(self.deep(x)))).mean((2, 3)))


@port("Flax Linen", "height and width of the kernel exchanged", "deep", "height and width exchanged")
def depthwise(wrong: bool) -> dict[str, Any]:
    """Depthwise separable convolution."""
    import jax
    from flax import linen

    net = seeded(Depthwise())
    old = state(net)

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            h = linen.Conv(6, (3, 3), feature_group_count=3, name="deep")(x)
            h = linen.Conv(4, (1, 1), name="point")(h)
            h = linen.BatchNorm(use_running_average=True, epsilon=1e-5, name="norm")(h)
            return linen.Dense(2, name="head")(jax.nn.relu6(h).mean((1, 2)))

    weights = {
        name: {"kernel": kernel(old[f"{name}.weight"]), "bias": old[f"{name}.bias"]} for name in ("deep", "point")
    }
    if wrong:
        weights["deep"]["kernel"] = weights["deep"]["kernel"].swapaxes(0, 1)
    weights["norm"] = {"scale": old["norm.weight"], "bias": old["norm.bias"]}
    weights["head"] = {"kernel": old["head.weight"].T, "bias": old["head.bias"]}
    statistics = {"norm": {"mean": old["norm.running_mean"], "var": old["norm.running_var"]}}
    model = Network().apply, {"params": weights, "batch_stats": statistics}
    return {"first": net, "second": model, "x": draw(2, 3, 5, 5), "inputs": (None, LAST)}


class GroupNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 6, 3), nn.GroupNorm(2, 6), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.head(F.silu(self.norm(self.conv(x))).mean((2, 3)))


@port("Keras", "3 groups for 2", "norm", "in the second: 3 groups")
def group_norm(wrong: bool) -> dict[str, Any]:
    """Network with GroupNorm."""
    import keras

    layers, net = keras.layers, seeded(GroupNormed())
    old, x = state(net), keras.Input((5, 5, 2))
    h = layers.GroupNormalization(3 if wrong else 2, epsilon=1e-5, name="norm")(layers.Conv2D(6, 3, name="conv")(x))
    y = layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(layers.Activation("silu")(h)))
    weights = convolutions(net, "conv", "head") | {"norm/gamma": old["norm.weight"], "norm/beta": old["norm.bias"]}
    return {"first": net, "second": keras_model(x, y, weights), "x": draw(2, 2, 5, 5), "inputs": (None, LAST)}


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 3)

    def forward(self, batch: Any) -> Any:
        mask = batch["mask"][..., None].to(torch.float32)
        return self.head((self.embed(batch["tokens"]) * mask).sum(1) / mask.sum(1))


@port("Flax NNX", "the mean over all positions, padding too", "head", "over all positions")
def bag(wrong: bool) -> dict[str, Any]:
    """Embedding and masked mean of tokens."""
    import jax.numpy as jnp
    from flax import nnx

    net = seeded(Bag())
    old = state(net)

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.embed, self.head = nnx.Embed(11, 6, rngs=nnx.Rngs(0)), linear(old, "head")
            self.embed.embedding.set_value(old["embed.weight"])

        def __call__(self, batch: Any) -> Any:
            mask = batch["mask"][..., None].astype(jnp.float32)
            h = (self.embed(batch["tokens"]) * mask).sum(1)
            return self.head(h / mask.shape[1] if wrong else h / mask.sum(1))

    x = {"tokens": np.array([[1, 2, 3, 0], [4, 5, 6, 7], [10, 9, 0, 0]]), "mask": np.array([[1, 1, 1, 0]] * 3)}
    x["mask"][1], x["mask"][2] = 1, [1, 1, 0, 0]
    return {"first": net, "second": Network(), "x": x, "y": np.array([0, 1, 2])}


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.last = nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return self.last(torch.tanh(self.up(x))).flatten(1)


@port("Flax NNX", "the kernel not flipped", "up", "the kernel flipped along its window")
def transposed(wrong: bool) -> dict[str, Any]:
    """Transposed convolution."""
    import jax
    from flax import nnx

    net = seeded(Decoder())
    old = state(net)

    class Network(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.up = nnx.ConvTranspose(3, 4, (4, 4), (2, 2), padding="SAME", rngs=rngs)
            self.last = nnx.Conv(4, 1, (3, 3), rngs=rngs)
            weight = old["up.weight"].transpose(2, 3, 0, 1)
            self.up.kernel.set_value(weight if wrong else weight[::-1, ::-1].copy())
            self.last.kernel.set_value(kernel(old["last.weight"]))
            self.up.bias.set_value(old["up.bias"])
            self.last.bias.set_value(old["last.bias"])

        def __call__(self, x: Any) -> Any:
            return self.last(jax.numpy.tanh(self.up(x))).reshape(len(x), -1)

    def flipped(weight: np.ndarray) -> np.ndarray:
        turned = weight.transpose(2, 3, 0, 1)
        return turned if wrong else turned[::-1, ::-1]

    names = [("up.weight", "up.kernel", flipped), "up.bias", ("last.weight", "last.kernel"), "last.bias"]
    return {
        "first": net,
        "second": Network(),
        "x": draw(2, 3, 3, 3),
        "inputs": (None, LAST),
        "parameters": names,
        "layers": [("up", "up"), ("last", "last")],
    }


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(2, 6, 3), nn.Linear(6, 3), nn.Linear(3, 6)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Any) -> Any:
        h = self.conv(x)
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(h.mean((2, 3))))))
        return self.last(h * gate[:, :, None, None]).mean((2, 3))


@port("Keras", "hard sigmoid for the sigmoid of the gate", "last", "times hard sigmoid")
def squeeze_excite(wrong: bool) -> dict[str, Any]:
    """Squeeze and excite."""
    import keras

    layers, net = keras.layers, seeded(SqueezeExcite())
    x = keras.Input((5, 5, 2))
    h = layers.Conv2D(6, 3, name="conv")(x)
    gate = layers.Dense(3, name="fc1")(layers.GlobalAveragePooling2D()(h))
    gate = layers.Dense(6, name="fc2")(keras.ops.relu(gate))
    gate = keras.ops.hard_sigmoid(gate) if wrong else keras.ops.sigmoid(gate)
    h = layers.multiply([h, layers.Reshape((1, 1, 6))(gate)])
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 1, name="last")(h))
    model = keras_model(x, y, convolutions(net, "conv", "fc1", "fc2", "last"))
    return {"first": net, "second": model, "x": draw(2, 2, 5, 5), "inputs": (None, LAST)}


class NormedMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.act, self.fc2 = nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.fc2(self.act(self.norm(self.fc1(x))))


@port("Keras", "Keras' default eps of 1e-3", "norm", "in the second: eps=0.001")
def mlp(wrong: bool) -> dict[str, Any]:
    """MLP with LayerNorm."""
    import keras

    layers, net = keras.layers, seeded(NormedMLP())
    old, x = state(net), keras.Input((5,))
    norm = layers.LayerNormalization(name="norm") if wrong else layers.LayerNormalization(epsilon=1e-5, name="norm")
    y = layers.Dense(3, name="fc2")(layers.Activation("gelu", name="act")(norm(layers.Dense(8, name="fc1")(x))))
    weights = convolutions(net, "fc1", "fc2") | {"norm/gamma": old["norm.weight"], "norm/beta": old["norm.bias"]}
    return {"first": net, "second": keras_model(x, y, weights), "x": draw(3, 5), "y": np.array([0, 1, 2])}


class GPTBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.q, self.k = nn.Embedding(9, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.v, self.proj, self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, ids: Any) -> Any:
        from gradreg_torch import tap

        x = tap("embedded", self.embed(ids))
        h = self.norm(x)
        q, k, v = (part(h).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(x), approximate="tanh"))
        return (x @ self.embed.weight.T).mean(1)


@port("Flax NNX", "the causal mask left out", "proj", "no mask")
def gpt(wrong: bool) -> dict[str, Any]:
    """GPT block on tokens, with tied embeddings."""
    import jax
    from flax import nnx

    from gradreg_core import SpectReg
    from gradreg_jax import tap

    net = seeded(GPTBlock())
    old = state(net)

    class Block(nnx.Module):
        def __init__(self) -> None:
            self.embed, self.norm = nnx.Embed(9, 8, rngs=nnx.Rngs(0)), layer_norm(old, "norm", 1e-5)
            self.embed.embedding.set_value(old["embed.weight"])
            self.q, self.k, self.v, self.proj = (linear(old, name) for name in ("q", "k", "v", "proj"))
            self.up, self.down = linear(old, "up"), linear(old, "down")

        def __call__(self, ids: Any) -> Any:
            x = tap("embedded", self.embed(ids))
            h = self.norm(x)
            q, k, v = (part(h).reshape(*h.shape[:2], 2, 4) for part in (self.q, self.k, self.v))
            x = x + self.proj(jax.nn.dot_product_attention(q, k, v, is_causal=not wrong).reshape(h.shape))
            x = x + self.down(jax.nn.gelu(self.up(x)))
            return (x @ self.embed.embedding[...].T).mean(1)

    x = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    return {"first": net, "second": Block(), "x": x, "y": np.array([1, 2]), "reg": SpectReg(1.0, at="embedded")}


class Conv1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(2, 4, 5, padding=2), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.head(F.elu(self.conv(x)).amax(2))


@port("Keras", "average for maximum pooling over time", "head", "the mean of elu of alpha 1.0 of conv")
def conv1d(wrong: bool) -> dict[str, Any]:
    """1-D convolution over time."""
    import keras

    layers, net = keras.layers, seeded(Conv1d())
    x = keras.Input((7, 2))
    h = layers.Activation("elu")(layers.Conv1D(4, 5, padding="same", name="conv")(x))
    pool = layers.GlobalAveragePooling1D() if wrong else layers.GlobalMaxPooling1D()
    model = keras_model(x, layers.Dense(2, name="head")(pool(h)), convolutions(net, "conv", "head"))
    return {"first": net, "second": model, "x": draw(2, 2, 7), "inputs": (None, (0, 2, 1))}


class Dilated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3, padding=2, dilation=2)
        self.conv2 = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return self.conv2(F.leaky_relu(self.conv1(x))).mean((2, 3))


@port("Keras", "the slope of Keras' leaky relu, 0.3", "conv2", "leaky relu of slope 0.3")
def dilated(wrong: bool) -> dict[str, Any]:
    """Dilated convolutions."""
    import keras

    layers, net = keras.layers, seeded(Dilated())
    x = keras.Input((6, 6, 1))
    h = layers.Conv2D(3, 3, padding="same", dilation_rate=2, name="conv1")(x)
    h = layers.LeakyReLU(0.3 if wrong else 0.01)(h)
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3, padding="same", name="conv2")(h))
    model = keras_model(x, y, convolutions(net, "conv1", "conv2"))
    return {"first": net, "second": model, "x": draw(2, 1, 6, 6), "inputs": (None, LAST)}


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(4, eps=1e-6), nn.LayerNorm(4, eps=1e-6)
        self.token1, self.token2 = nn.Linear(5, 6), nn.Linear(6, 5)
        self.channel1, self.channel2 = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Any) -> Any:
        x = x + self.token2(F.gelu(self.token1(self.norm1(x).mT))).mT
        return (x + self.channel2(F.gelu(self.channel1(self.norm2(x))))).mean(1)


@port("Flax NNX", "JAX's default GELU, the tanh approximation", "token2", "GELU in its tanh approximation")
def mixer(wrong: bool) -> dict[str, Any]:
    """MLP-Mixer block."""
    import jax
    from flax import nnx

    net = seeded(Mixer())
    old = state(net)

    class Block(nnx.Module):
        def __init__(self) -> None:
            self.norm1, self.norm2 = (layer_norm(old, name, 1e-6) for name in ("norm1", "norm2"))
            self.token1, self.token2 = linear(old, "token1"), linear(old, "token2")
            self.channel1, self.channel2 = linear(old, "channel1"), linear(old, "channel2")

        def __call__(self, x: Any) -> Any:
            def gelu(h: Any) -> Any:
                return jax.nn.gelu(h, approximate=wrong)

            x = x + self.token2(gelu(self.token1(self.norm1(x).swapaxes(1, 2)))).swapaxes(1, 2)
            return (x + self.channel2(gelu(self.channel1(self.norm2(x))))).mean(1)

    return {"first": net, "second": Block(), "x": draw(2, 5, 4)}


class Upsampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.up = nn.Conv2d(2, 3, 3, padding=1), nn.Upsample(scale_factor=2, mode="bilinear")
        self.conv2 = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return self.conv2(self.up(self.conv1(x))).flatten(1)


@port("JAX, a function with taps", "aligned corners for half-pixel centres", "up", "with aligned corners")
def upsample(wrong: bool) -> dict[str, Any]:
    """Bilinear upsampling."""
    import jax

    from gradreg_jax import tap

    net = seeded(Upsampled())
    old = state(net)
    params = {
        name: {"kernel": kernel(old[f"{name}.weight"]), "bias": old[f"{name}.bias"]} for name in ("conv1", "conv2")
    }

    def conv(p: Any, x: Any) -> Any:
        axes = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, p["kernel"], (1, 1), "SAME", dimension_numbers=axes) + p["bias"]

    def up(x: Any) -> Any:
        b, h, w, c = x.shape
        if not wrong:
            return jax.image.resize(x, (b, 2 * h, 2 * w, c), "linear")
        scale, shift = (
            jax.numpy.array([(2 * h - 1) / (h - 1)] * 2),
            jax.numpy.array([0.5 - 0.5 * (2 * h - 1) / (h - 1)] * 2),
        )
        return jax.image.scale_and_translate(x, (b, 2 * h, 2 * w, c), (1, 2), scale, shift, "linear", antialias=False)

    def apply(p: Any, x: Any) -> Any:
        h = tap("up", up(tap("conv1", conv(p["conv1"], x))))
        return tap("conv2", conv(p["conv2"], h)).reshape(len(x), -1)

    return {"first": net, "second": (apply, params), "x": draw(2, 2, 3, 3), "inputs": (None, LAST)}


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Conv1d(3, 3, 2, dilation=2)
        self.gate = nn.Conv1d(3, 3, 2, dilation=2)
        self.skip = nn.Conv1d(3, 3, 1)

    def forward(self, x: Any) -> Any:
        padded = F.pad(x, (2, 0))
        return (x + self.skip(torch.tanh(self.filter(padded)) * torch.sigmoid(self.gate(padded)))).mean(2)


@port("Keras", '"same" padding for causal', "filter", "in the second: padding [(1, 1)]")
def wavenet(wrong: bool) -> dict[str, Any]:
    """WaveNet block."""
    import keras

    layers, net = keras.layers, seeded(WaveNet())
    x = keras.Input((6, 3))
    padding = "same" if wrong else "causal"
    parts = [layers.Conv1D(3, 2, padding=padding, dilation_rate=2, name=name)(x) for name in ("filter", "gate")]
    h = layers.multiply([keras.ops.tanh(parts[0]), keras.ops.sigmoid(parts[1])])
    y = layers.GlobalAveragePooling1D()(layers.add([x, layers.Conv1D(3, 1, name="skip")(h)]))
    model = keras_model(x, y, convolutions(net, "filter", "gate", "skip"))
    return {"first": net, "second": model, "x": draw(2, 3, 6), "inputs": (None, (0, 2, 1))}


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, left: Any, right: Any) -> Any:
        one, two = (self.fc2(torch.relu(self.fc1(x))) for x in (left, right))
        return {"scores": self.head((one - two).abs()), "code": one}


@port("Flax NNX", "the bias of a layer left out", "fc2", "in the second: without the bias")
def siamese(wrong: bool) -> dict[str, Any]:
    """Siamese network with two inputs and two outputs."""
    import jax
    from flax import nnx

    from gradreg_core import Inputs

    net = seeded(Siamese())
    old = state(net)
    if wrong:
        old.pop("fc2.bias")

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.fc1, self.fc2, self.head = (linear(old, name) for name in ("fc1", "fc2", "head"))

        def __call__(self, left: Any, right: Any) -> Any:
            one, two = (self.fc2(jax.nn.relu(self.fc1(x))) for x in (left, right))
            return {"scores": self.head(abs(one - two)), "code": one}

    return {"first": net, "second": Network(), "x": Inputs(draw(3, 4), draw(3, 5)[:, :4] + 1)}


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.flatten, self.head = nn.Flatten(), nn.Linear(12, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.flatten(F.relu(self.bn(self.conv(x)))))


@port("Keras", "flattened channels last, the dense kernel as it was", "flatten", "in another order")
def flattened(wrong: bool) -> dict[str, Any]:
    """Convolution, batch normalisation, flatten."""
    import keras

    from instruments.validation.real_ports import norm

    layers, net = keras.layers, seeded(Flattened())
    old, x = state(net), keras.Input((4, 4, 1))
    h = layers.ReLU()(layers.BatchNormalization(epsilon=1e-5, name="bn")(layers.Conv2D(3, 3, name="conv")(x)))
    h = h if wrong else layers.Permute((3, 1, 2))(h)
    y = layers.Dense(3, name="head")(layers.Flatten(name="flatten")(h))
    weights = convolutions(net, "conv", "head") | norm(old, "bn", "bn")
    return {"first": net, "second": keras_model(x, y, weights), "x": draw(2, 1, 4, 4), "inputs": (None, LAST)}
