"""Models and their ports, right and wrong, for the tests of validate."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn
rng = np.random.default_rng(0)
X = rng.normal(size=(6, 5)).astype(np.float32)
Y = np.array([0, 1, 2, 1, 0, 2])
IMAGES = rng.normal(size=(3, 4, 4, 2)).astype(np.float32)


class Net(nn.Module):
    """A torch network with what is often ported wrongly."""

    def __init__(self, gelu="none", eps=1e-5, detached=False):
        super().__init__()
        torch.manual_seed(0)
        self.fc1 = nn.Linear(5, 8)
        self.act = nn.GELU(gelu)
        self.norm = nn.LayerNorm(8, eps=eps)
        self.mix = nn.Linear(8, 8)
        self.fc2 = nn.Linear(8, 3)
        self.detached = detached

    def forward(self, x):
        h = self.norm(self.act(self.fc1(x)))
        gate = torch.sigmoid(self.mix(h))
        return self.fc2(h * (gate.detach() if self.detached else gate))


LAYERS = ["fc1", "act", "norm", "mix", "fc2"]
SAME = [name for name, _ in Net().named_parameters()]


def arrays(net):
    return {name: tensor.detach().numpy().copy() for name, tensor in net.state_dict().items()}


def jax_port(net, approximate=False):
    """The network as a JAX function, kernels (in, out), and as stages."""
    jax = pytest.importorskip("jax")
    old = arrays(net)
    names = ("fc1", "mix", "fc2")
    params = {name: {"kernel": old[f"{name}.weight"].T, "bias": old[f"{name}.bias"]} for name in names}
    params["norm"] = {"scale": old["norm.weight"], "bias": old["norm.bias"]}

    def dense(name):
        return lambda p, x: x @ p[name]["kernel"] + p[name]["bias"]

    def norm(p, h):
        centred = h - h.mean(-1, keepdims=True)
        return (
            centred / jax.numpy.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["norm"]["scale"]
            + p["norm"]["bias"]
        )

    def head(p, h):
        return dense("fc2")(p, h * jax.nn.sigmoid(dense("mix")(p, h)))

    stages = [
        ("dense", dense("fc1")),
        ("gelu", lambda p, h: jax.nn.gelu(h, approximate=approximate)),
        ("norm", norm),
        ("out", head),
    ]

    def apply(p, x):
        for _, stage in stages:
            x = stage(p, x)
        return x

    return apply, params, stages


JAX_NAMES = {
    **{f"{name}.weight": f"{name}.kernel" for name in ("fc1", "mix", "fc2")},
    **{f"{name}.bias": f"{name}.bias" for name in ("fc1", "mix", "fc2", "norm")},
    "norm.weight": "norm.scale",
}
JAX_LAYERS = [("fc1", "dense"), ("act", "gelu"), ("norm", "norm"), ("fc2", "out")]


def keras_port(net, permute=True):
    """The torch network of `images()` in Keras, channels last."""
    pytest.importorskip("tensorflow")
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((4, 4, 2)),
            layers.Conv2D(3, 3, padding="same", activation="tanh", name="conv"),
            layers.BatchNormalization(epsilon=1e-5, name="bn"),
            *([layers.Permute((3, 1, 2))] if permute else []),
            layers.Flatten(name="flatten"),
            layers.Dense(6, activation="softplus", name="hidden"),
            layers.LayerNormalization(epsilon=1e-5, name="norm"),
            layers.Dense(3, name="out"),
        ]
    )
    for name, (path, axes) in KERAS_NAMES.items():
        variable = next(variable for variable in model.variables if variable.path.endswith(path))
        variable.assign(np.transpose(arrays(net)[name], axes))
    return model


KERAS_NAMES = {
    "conv.weight": ("conv/kernel", (2, 3, 1, 0)),
    "conv.bias": ("conv/bias", (0,)),
    "bn.weight": ("bn/gamma", (0,)),
    "bn.bias": ("bn/beta", (0,)),
    "bn.running_mean": ("bn/moving_mean", (0,)),
    "bn.running_var": ("bn/moving_variance", (0,)),
    "hidden.weight": ("hidden/kernel", (1, 0)),
    "hidden.bias": ("hidden/bias", (0,)),
    "norm.weight": ("norm/gamma", (0,)),
    "norm.bias": ("norm/beta", (0,)),
    "out.weight": ("out/kernel", (1, 0)),
    "out.bias": ("out/bias", (0,)),
}


def images():
    from collections import OrderedDict

    torch.manual_seed(1)
    net = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(2, 3, 3, padding=1),
            tanh=nn.Tanh(),
            bn=nn.BatchNorm2d(3),
            flatten=nn.Flatten(),
            hidden=nn.Linear(48, 6),
            soft=nn.Softplus(),
            norm=nn.LayerNorm(6),
            out=nn.Linear(6, 3),
        )
    ).eval()
    with torch.no_grad():
        net.bn.running_mean += torch.tensor([0.1, -0.2, 0.3])
        net.bn.running_var *= torch.tensor([0.5, 2.0, 1.5])
    return net


def quantities(report, agree=True):
    return [row.quantity for row in report.rows if row.agrees is agree]
