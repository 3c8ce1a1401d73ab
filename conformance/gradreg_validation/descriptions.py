"""Layers of PyTorch, Keras, Flax and Equinox described for :mod:`gradreg_validation.emulation`, by their attributes.

No framework is imported. A layer whose description does not reproduce what the layer gave is not used further, so what
a description leaves out cannot mislead.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradreg_validation.forms import form_named
from gradreg_validation.heads import describe_attention
from gradreg_validation.layer import Layer
from gradreg_validation.recording import Step

__all__ = ["as_dict", "describe", "from_dict"]


def describe(layer: Any, x: np.ndarray, step: Step | None = None) -> Layer | None:
    """The layer in words and numbers; None for a kind that is not known.

    Args:
        layer: a module, or a layer that has been described, with the keys of :class:`Layer`.
        x: its input.
        step: the whole call, which tells the masks of an attention.
    """
    if isinstance(layer, Mapping):
        fields = {name: value for name, value in layer.items() if name != "type"}
        return Layer(**fields) if fields else None
    kind, package = type(layer).__name__.lower(), type(layer).__module__.partition(".")[0]

    def get(name: str, default: Any = None) -> Any:
        value = getattr(layer, name, default)
        return _array(value) if hasattr(value, "shape") and not isinstance(value, np.ndarray) else value

    if "attention" in kind and step is not None:
        try:
            return describe_attention(layer, package, x, step.inputs, step.options, _array)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return None
    for marks, describer in _DESCRIBERS:
        if any(mark in kind for mark in marks):
            try:
                described: Layer | None = describer(get, type(layer).__name__, x, package)
            except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
                return None  # a layer of the user's own that has such a name
            return described
    return None


def _array(value: Any) -> np.ndarray:
    for method in ("detach", "cpu", "get_value"):
        if hasattr(value, method):
            value = getattr(value, method)()
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value, np.float64)


def _present(**arrays: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(array, np.float64) for name, array in arrays.items() if isinstance(array, np.ndarray)}


def _activation(get: Any, package: str) -> str | None:
    function = get("activation")
    name = getattr(function, "__name__", function)
    if package != "keras" or not isinstance(name, str) or name == "linear":
        return None
    return form_named(name) or name


def _tuple(value: Any, n: int) -> tuple[int, ...]:
    return tuple(map(int, value)) if isinstance(value, Sequence) else (int(value if value is not None else 1),) * n


def _dense(get: Any, kind: str, x: np.ndarray, package: str) -> Layer:
    weight, kernel = get("weight"), get("kernel")
    matrix = weight if kernel is None else kernel.T
    return Layer("dense", _present(kernel=matrix, bias=get("bias")), activation=_activation(get, package))


def _channels_last(get: Any, package: str) -> bool:
    if get("kernel") is None and get("weight") is not None and package in ("torch", "equinox", ""):
        return False
    return package in ("flax", "") or get("data_format", "channels_last") == "channels_last"


def _conv(get: Any, kind: str, x: np.ndarray, package: str) -> Layer:
    weight, kernel = get("weight"), get("kernel")
    last = _channels_last(get, package)
    depthwise = kind.startswith("Depthwise")
    if kernel is None:
        n, canonical = weight.ndim - 2, weight
    else:
        n = kernel.ndim - 2
        if depthwise:  # (*window, in, multiplier)
            kernel = kernel.reshape(*kernel.shape[:n], 1, -1)
        canonical = np.moveaxis(kernel, (-1, -2), (0, 1))
    transposed = "transpose" in kind.lower()
    groups = x.shape[-1 if last else 1] if depthwise else get("groups") or get("feature_group_count") or 1
    options: dict[str, Any] = {
        "strides": _tuple(get("stride") or get("strides"), n),
        "dilation": _tuple(get("dilation") or get("dilation_rate") or get("kernel_dilation") or 1, n),
        "groups": int(groups),
        "padding_mode": get("padding_mode", "zeros"),
    }
    padding = get("padding")
    if transposed:
        if kernel is None:
            extra = _tuple(get("output_padding", 0), n)
            options["crops"] = [(p, "torch", e) for p, e in zip(_tuple(padding, n), extra, strict=True)]
        else:
            options["crops"] = str(padding).lower()
            if package == "keras":  # (*window, out, in)
                canonical = np.moveaxis(kernel, (-1, -2), (0, 1))
            else:  # (*window, in, out), not flipped
                canonical = np.moveaxis(kernel, (-2, -1), (0, 1))[
                    (slice(None), slice(None), *[slice(None, None, -1)] * n)
                ]
    else:
        options["padding"] = _padding(padding, n)
    arrays = _present(kernel=canonical, bias=get("bias"))
    return Layer("conv_transpose" if transposed else "conv", arrays, options, last, _activation(get, package))


def _padding(padding: Any, n: int) -> Any:
    if isinstance(padding, str):
        return padding.lower()
    if isinstance(padding, int):
        return [(padding, padding)] * n
    return [(p, p) if isinstance(p, int) else tuple(p) for p in padding]


def _scales(get: Any) -> dict[str, np.ndarray]:
    scale, beta = get("scale"), get("beta")
    if not isinstance(scale, np.ndarray):
        gamma, weight = get("gamma"), get("weight")
        scale = gamma if isinstance(gamma, np.ndarray) else weight
    return _present(scale=scale, bias=beta if isinstance(beta, np.ndarray) else get("bias"))


def _eps(get: Any) -> float:
    given = [get(name) for name in ("eps", "epsilon", "variance_epsilon")]
    return float(next((value for value in given if value is not None), 1.1920929e-07))


def _layer_norm(get: Any, kind: str, x: np.ndarray, package: str) -> Layer:
    shape = get("normalized_shape")
    axes = get("axis")
    if shape is not None:
        count = len(shape) if isinstance(shape, Sequence) else 1
    else:
        count = len(axes) if isinstance(axes, Sequence) else 1
    centre = "rms" not in kind.lower()
    return Layer("layer_norm", _scales(get), {"count": count, "eps": _eps(get), "centre": centre})


def _batch_norm(get: Any, kind: str, x: np.ndarray, package: str) -> Layer:
    mean, variance = get("running_mean"), get("running_var")
    if mean is None:
        mean = get("moving_mean") if get("moving_mean") is not None else get("mean")
        variance = get("moving_variance") if get("moving_variance") is not None else get("var")
    training = bool(get("training", False)) if package == "torch" else get("use_running_average") is False
    last = package != "torch" if package else bool(get("channels_last", False))
    options = {"eps": _eps(get), "training": training, "momentum": get("momentum")}
    return Layer("batch_norm", {**_scales(get), **_present(mean=mean, variance=variance)}, options, last)


def _group_norm(get: Any, kind: str, x: np.ndarray, package: str) -> Layer:
    groups = get("groups") if get("groups") is not None else get("num_groups")
    last = package != "torch" if package else bool(get("channels_last", False))
    if "instance" in kind.lower():
        groups = x.shape[-1 if last else 1]
    return Layer("group_norm", _scales(get), {"groups": int(groups), "eps": _eps(get)}, last)


def _embedding(get: Any, kind: str, x: np.ndarray, package: str) -> Layer:
    tables = [get(name) for name in ("weight", "embedding", "embeddings")]
    table = next(array for array in tables if isinstance(array, np.ndarray))
    return Layer("embedding", _present(kernel=table))


def _prelu(get: Any, kind: str, x: np.ndarray, package: str) -> Layer:
    slope = get("weight") if get("weight") is not None else get("alpha")
    return Layer("prelu", _present(slope=slope), {}, package != "torch")


def _pool(get: Any, kind: str, x: np.ndarray, package: str) -> Layer | None:
    lowered, n = kind.lower(), x.ndim - 2
    window = get("kernel_size") or get("pool_size")
    if window is None or n < 1:
        return None
    strides = get("stride") or get("strides") or window
    options = {
        "window": _tuple(window, n),
        "strides": _tuple(strides, n),
        "dilation": _tuple(get("dilation", 1), n),
        "padding": _padding(get("padding"), n),
        "ceil": bool(get("ceil_mode", False)),
        "maximum": "max" in lowered,
        "counts_padding": bool(get("count_include_pad", False)),
    }
    return Layer("pool", {}, options, package != "torch")


def _recurrent(get: Any, kind: str, x: np.ndarray, package: str) -> Layer | None:
    lowered = kind.lower()
    cell = "lstm" if "lstm" in lowered else "gru" if "gru" in lowered else "rnn"
    if get("weight_ih_l0") is not None:
        if get("num_layers", 1) != 1:
            return None
        params: dict[str, np.ndarray] = {}
        for side, suffix in (("", ""), ("backward ", "_reverse")) if get("bidirectional") else (("", ""),):
            named = {"kernel": "weight_ih", "recurrent": "weight_hh", "bias": "bias_ih", "recurrent_bias": "bias_hh"}
            arrays = {f"{side}{name}": get(f"{attribute}_l0{suffix}") for name, attribute in named.items()}
            params |= _present(**arrays)
        options = {"order": "ifgo" if cell == "lstm" else "rzn", "time_first": not get("batch_first")}
        return Layer(cell, params, {**options, "activation": get("nonlinearity") or "tanh"})
    inner = get("cell")
    if inner is None or getattr(inner, "recurrent_kernel", None) is None:
        return None
    bias = getattr(inner, "bias", None)
    split = bias is not None and len(bias.shape) == 2
    arrays = {} if bias is None else {"bias": _array(bias)}
    if split:
        arrays = {"bias": arrays["bias"][0], "recurrent_bias": arrays["bias"][1]}
    params = _present(kernel=_array(inner.kernel).T, recurrent=_array(inner.recurrent_kernel).T, **arrays)
    options = {
        "order": "ifgo" if cell == "lstm" else "zrn",
        "reset_after": bool(getattr(inner, "reset_after", True)),
        "last": not get("return_sequences"),
        "reverse": bool(get("go_backwards")),
        "realigned": False,
        "gate": form_named(getattr(getattr(inner, "recurrent_activation", None), "__name__", "sigmoid")) or "sigmoid",
        "activation": form_named(getattr(inner.activation, "__name__", "tanh")) or "tanh",
    }
    return Layer(cell, params, options)


_DESCRIBERS = (
    (("layernorm", "rmsnorm", "rmsnormalization"), _layer_norm),
    (("batchnorm",), _batch_norm),
    (("groupnorm", "instancenorm"), _group_norm),
    (("prelu",), _prelu),
    (("conv",), _conv),
    (("linear", "dense"), _dense),
    (("embed",), _embedding),
    (("pool",), _pool),
    (("lstm", "gru", "rnn"), _recurrent),
)


def as_dict(step: Step) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The layer of a call as values of JSON, with its type, and its parameters."""
    layer, x = step.layer, next(iter(step.inputs.values()), None)
    described = None if x is None else describe(layer, x, step)
    fields: dict[str, Any] = {} if layer is None else {"type": type(layer).__name__}
    if described is None:
        return fields, {}
    fields |= {"kind": described.kind, "options": described.options}
    return fields | {"channels_last": described.channels_last, "activation": described.activation}, described.params


def from_dict(fields: Mapping[str, Any], params: dict[str, np.ndarray]) -> dict[str, Any] | None:
    """A layer of `as_dict` as :func:`describe` takes it; None if there was no layer."""
    if not fields:
        return None
    if "kind" not in fields:
        return dict(fields)
    options = {name: _tuples(value) for name, value in fields["options"].items()}
    return {**fields, "options": options, "params": params}


def _tuples(value: Any) -> Any:
    """Lists as the tuples that they were; pairs for every axis are a list of tuples."""
    if not isinstance(value, list):
        return value
    return [tuple(part) for part in value] if value and isinstance(value[0], list) else tuple(value)
