"""Attention inside one layer: PyTorch's against Keras', right and with each usual mistake, in float32 and float64."""

import numpy as np
import pytest

from gradreg_core import WeightDecay
from gradreg_validation import save_reference, validate
from gradreg_validation.descriptions import describe
from gradreg_validation.emulation import emulate
from gradreg_validation.recording import Step
from instruments.validation.ports import arrays

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
nn = torch.nn

WIDTH, HEADS, SIZE, LENGTH = 6, 3, 2, 4
ROWS = np.random.default_rng(0).normal(size=(3, LENGTH, 5)).astype(np.float32)


class Causal(nn.Module):
    """A causal attention, of which all positions or the first alone go on."""

    def __init__(self, first_alone=False):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(5, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.head = nn.Linear(WIDTH, 2)
        nn.init.normal_(self.attention.in_proj_bias)
        nn.init.normal_(self.attention.out_proj.bias)
        self.first_alone = first_alone

    def forward(self, x):
        h = torch.relu(self.inner(x))
        later = torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1)
        y, _ = self.attention(h, h, h, attn_mask=later, need_weights=False)
        return self.head((h + y)[:, 0] if self.first_alone else h + y)


def port(net, mistake=""):
    """The same in Keras, whose kernels are by head."""
    old = {name: array.numpy() for name, array in net.state_dict().items()}
    dtype = str(old["inner.weight"].dtype)
    inner, head = (keras.layers.Dense(n, name=name, dtype=dtype) for name, n in (("inner", WIDTH), ("head", 2)))
    attention = keras.layers.MultiHeadAttention(HEADS, SIZE, name="attention", dtype=dtype)
    x = keras.Input((LENGTH, 5), dtype=dtype)
    h = keras.ops.relu(inner(x))
    total = h + attention(h, h, use_causal_mask=mistake != "mask")
    model = keras.Model(x, head(total[:, 0] if net.first_alone else total))
    for layer in (inner, head):
        layer.set_weights([old[f"{layer.name}.weight"].T, old[f"{layer.name}.bias"]])
    kernels, biases = (np.split(old[f"attention.in_proj_{name}"], 3) for name in ("weight", "bias"))
    order = (1, 0, 2) if mistake == "exchanged" else (0, 1, 2)
    for i, part in zip(order, ("query", "key", "value"), strict=True):
        kernel, bias = kernels[i].T.reshape(WIDTH, HEADS, SIZE), biases[i].reshape(HEADS, SIZE)
        if mistake == "interleaved":
            kernel = kernels[i].T.reshape(WIDTH, SIZE, HEADS).swapaxes(1, 2)
        if mistake == "bias" and part == "value":
            bias = 0 * bias
        getattr(attention, f"_{part}_dense").set_weights([kernel, bias])
    last = old["attention.out_proj.weight"]
    last = (last if mistake == "transposed" else last.T).reshape(HEADS, SIZE, WIDTH)
    attention._output_dense.set_weights([last, old["attention.out_proj.bias"]])
    if mistake == "scale":
        attention._inverse_sqrt_key_dim = WIDTH**-0.5
    return model


MISTAKES = {
    "mask": "In the first model: its mask as it is; in the second: no mask",
    "exchanged": "the kernels and biases of key, query and value",
    "interleaved": "the heads of query, key and value interleaved in the kernels, not in the biases",
    "bias": "in the second: without the bias of value",
    "transposed": "the kernel of out transposed",
    "scale": "in the second: scale 1/sqrt(all features)",
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_mistake_in_an_attention_is_named(mistake, dtype):
    net = Causal().eval().to(getattr(torch, dtype))
    report = validate(net, port(net, mistake), ROWS.astype(dtype), reg=WeightDecay(0.1), repeats=1)
    assert report.first_divergence == "attention", report
    assert MISTAKES[mistake] in report.cause, report


def test_the_scale_that_keras_rounds_in_float64_is_named():
    net = Causal().eval().double()
    report = validate(net, port(net), ROWS.astype(np.float64), reg=WeightDecay(0.1), repeats=1)
    assert "its scale rounded to float32" in report.cause, report


def test_a_mistake_is_named_from_a_file(tmp_path):
    net = Causal().eval()
    save_reference(tmp_path / "net.npz", net, ROWS)
    assert validate(tmp_path / "net.npz", port(net), repeats=1).ok
    assert MISTAKES["interleaved"] in validate(tmp_path / "net.npz", port(net, "interleaved"), repeats=1).cause


def test_a_gradient_that_is_zero_up_to_roundoff_is_no_difference():
    """The first position attends to itself alone: the network is piecewise linear, and TensorFlow's zero is 1e-7."""
    net = Causal(first_alone=True).eval()
    report = validate(net, port(net), ROWS, repeats=2)
    assert report.ok, report


def test_attentions_are_emulated_with_their_masks():
    """Padding as 0 and as minus infinity added, keys of another length, Keras' masks and time as the first axis."""
    torch.manual_seed(1)
    x, other = torch.randn(3, LENGTH, WIDTH), torch.randn(3, 5, WIDTH)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = padding[2, 1:] = True
    added = torch.zeros(3 * HEADS, LENGTH, 5).masked_fill(torch.rand(3 * HEADS, LENGTH, 5) > 0.8, -3.0)
    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, kdim=WIDTH, vdim=WIDTH)
    with torch.no_grad():
        y, _ = layer(x, other, other, attn_mask=added, key_padding_mask=padding.float() * -1e9)
        inputs = {"0": x, "1": other, "2": other, "attn_mask": added, "key_padding_mask": padding.float() * -1e9}
        step = Step("", {name: array.numpy() for name, array in inputs.items()}, {}, layer)
    assert np.allclose(emulate(describe(layer, x.numpy(), step), x.numpy()), y.numpy(), atol=1e-5)
    late = nn.MultiheadAttention(WIDTH, HEADS, bias=False)
    with torch.no_grad():
        y, _ = late(x, x, x)
        step = Step("", {str(i): x.numpy() for i in range(3)}, {}, late)
    assert np.allclose(emulate(describe(late, x.numpy(), step), x.numpy()), y.numpy(), atol=1e-5)
    own = keras.layers.MultiHeadAttention(HEADS, SIZE)
    kept = ~padding.numpy()
    y = own(x.numpy(), other.numpy(), attention_mask=kept[:, None])
    step = Step("", {"0": x.numpy(), "1": other.numpy(), "attention_mask": kept[:, None]}, {}, own)
    assert np.allclose(emulate(describe(own, x.numpy(), step), x.numpy()), y.numpy(), atol=1e-5)


@pytest.mark.slow
def test_an_attention_of_flax_is_emulated():
    nnx = pytest.importorskip("flax.nnx")
    layer = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(3, LENGTH, WIDTH)).astype(np.float32)
    mask = np.tril(np.ones((1, 1, LENGTH, LENGTH), bool))
    step = Step("", {"0": x, "mask": mask}, {}, layer)
    assert np.allclose(emulate(describe(layer, x, step), x), layer(x, mask=mask), atol=1e-5)


@pytest.mark.slow
def test_layers_of_equinox_under_vmap_are_compared():
    """Equinox's layers take one sample, or one position: their arrays are read with the axes of vmap first."""
    jax, equinox = pytest.importorskip("jax"), pytest.importorskip("equinox")
    net = Causal().eval()
    old = {name: jax.numpy.asarray(array) for name, array in arrays(net).items()}

    class Port(equinox.Module):
        inner: equinox.nn.Linear
        attention: equinox.nn.MultiheadAttention
        head: equinox.nn.Linear

        def __call__(self, x):
            def single(rows):
                h = jax.nn.relu(jax.vmap(self.inner)(rows))
                return jax.vmap(self.head)(h + self.attention(h, h, h, mask=jax.numpy.ones((LENGTH, LENGTH), bool)))

            return jax.vmap(single)(x)

    key = jax.random.key(0)
    biases = {f"use_{part}_bias": True for part in ("query", "key", "value", "output")}
    linear, attention = equinox.nn.Linear, equinox.nn.MultiheadAttention(HEADS, WIDTH, key=key, **biases)
    port = Port(linear(5, WIDTH, key=key), attention, linear(WIDTH, 2, key=key))
    parts = [
        port.inner,
        *(getattr(attention, f"{part}_proj") for part in ("query", "key", "value", "output")),
        port.head,
    ]
    kernels, shifts = (jax.numpy.split(old[f"attention.in_proj_{name}"], 3) for name in ("weight", "bias"))
    pairs = [(old["inner.weight"], old["inner.bias"]), *zip(kernels, shifts, strict=True)]
    pairs += [(old[f"{name}.weight"], old[f"{name}.bias"]) for name in ("attention.out_proj", "head")]
    for part, (weight, bias) in zip(parts, pairs, strict=True):
        object.__setattr__(part, "weight", weight)
        object.__setattr__(part, "bias", bias)
    report = validate(net, port, ROWS, reg=WeightDecay(0.1), repeats=1)
    assert [row.agrees for row in report.layers] == [True, False, False], report
    assert "In the first model: its mask as it is; in the second: no mask" in report.cause, report


def test_an_attention_with_rows_of_its_own_is_not_described():
    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, add_bias_kv=True)
    x = np.zeros((3, LENGTH, WIDTH), np.float32)
    assert describe(layer, x, Step("", {str(i): x for i in range(3)}, {}, layer)) is None
