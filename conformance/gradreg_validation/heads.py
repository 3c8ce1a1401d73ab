"""Layers of several attention heads, with their four dense maps inside: description, emulation and usual mistakes."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gradreg_validation.attending import attention_weights, scales
from gradreg_validation.layer import Layer, Mistake

__all__ = ["attend", "attention_mistakes", "describe_attention"]

_PARTS = ("query", "key", "value")
_CAUSAL = {
    "": "",
    "causal": "a causal mask",
    "strict": "a causal mask without the diagonal",
    "ahead": "a causal mask that lets one later position in",
    "past": "a causal mask turned round",
}
_GIVEN = {"none": "no mask", "given": "its mask as it is", "inverted": "its mask inverted"}


def describe_attention(
    layer: Any, package: str, x: np.ndarray, inputs: Mapping[str, np.ndarray], options: Mapping[str, Any], array: Any
) -> Layer | None:
    """The layer with kernels (in, heads, size), biases (heads, size), an output kernel (heads, size, out) and a mask.

    Args:
        layer: MultiheadAttention of PyTorch or Equinox, or MultiHeadAttention of Flax NNX or Keras; others give None.
        package: the layer's package.
        x: the queries' input.
        inputs: all arrays of the call, by position or keyword.
        options: the call's keywords that are not arrays.
        array: turns a parameter into NumPy's.
    """
    reader = {"torch": _of_torch, "flax": _of_flax, "keras": _of_keras, "equinox": _of_equinox}.get(package)
    if reader is None or x.ndim != 3:
        return None
    params, chosen = reader(layer, lambda owner, name: _read(owner, name, array))
    named = {_POSITIONS[package].get(name, name): value for name, value in inputs.items()}
    for part in ("key", "value"):
        other = named.get(part, named.get("key" if package == "flax" else "value", x))
        if other.shape != x.shape or not np.array_equal(other, x):
            params[f"input {part}"] = np.asarray(other, np.float64)
    params |= _mask(package, named, chosen["heads"])
    causal = "causal" if package == "keras" and options.get("use_causal_mask") else ""
    return Layer("attention", params, {**chosen, "mask": "given", "causal": causal, "axis": -1})


_POSITIONS: dict[str, dict[str, str]] = {
    "torch": {"0": "query", "1": "key", "2": "value"},
    "flax": {"0": "query", "1": "key", "2": "value", "inputs_k": "key", "inputs_v": "value"},
    "keras": {"0": "query", "1": "value", "2": "key"},
    "equinox": {"0": "query", "1": "key", "2": "value", "3": "mask"},
}


def _read(owner: Any, name: str, array: Callable[[Any], np.ndarray]) -> np.ndarray | None:
    value = getattr(owner, name, None)
    return None if value is None or not hasattr(value, "shape") else array(value)


def _of_torch(layer: Any, read: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if layer.bias_k is not None or layer.add_zero_attn:
        raise ValueError("not described")
    heads = int(layer.num_heads)
    joint = read(layer, "in_proj_weight")
    kernels = [read(layer, f"{part[0]}_proj_weight") for part in _PARTS] if joint is None else np.split(joint, 3)
    bias = read(layer, "in_proj_bias")
    params = {part: w.T.reshape(w.shape[1], heads, -1) for part, w in zip(_PARTS, kernels, strict=True)}
    if bias is not None:
        named = zip(_PARTS, np.split(bias, 3), strict=True)
        params |= {f"{part} bias": b.reshape(heads, -1) for part, b in named}
    out = read(layer.out_proj, "weight")
    params["out"] = out.T.reshape(heads, -1, len(out))
    if (last := read(layer.out_proj, "bias")) is not None:
        params["out bias"] = last
    size = params["query"].shape[2]
    return params, {"heads": heads, "scale": size**-0.5, "time_first": not layer.batch_first}


def _of_parts(parts: Mapping[str, Any], read: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    params = {name: read(part, "kernel") for name, part in parts.items()}
    params |= {f"{name} bias": bias for name, part in parts.items() if (bias := read(part, "bias")) is not None}
    _, heads, size = params["query"].shape
    return params, {"heads": heads, "scale": size**-0.5, "time_first": False}


def _of_flax(layer: Any, read: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    return _of_parts({name: getattr(layer, name) for name in (*_PARTS, "out")}, read)


def _of_keras(layer: Any, read: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    parts = {name: getattr(layer, f"_{name}_dense") for name in _PARTS}
    params, options = _of_parts({**parts, "out": layer._output_dense}, read)
    return params, {**options, "scale": float(np.float32(layer._inverse_sqrt_key_dim))}  # rounded in float64 too


def _of_equinox(layer: Any, read: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    heads = int(layer.num_heads)
    params: dict[str, np.ndarray] = {}
    for part in _PARTS:
        projection = getattr(layer, f"{part}_proj")
        params[part] = (weight := read(projection, "weight")).T.reshape(weight.shape[1], heads, -1)
        if (bias := read(projection, "bias")) is not None:
            params[f"{part} bias"] = bias.reshape(heads, -1)
    out = read(layer.output_proj, "weight")
    params["out"] = out.T.reshape(heads, -1, len(out))
    if (last := read(layer.output_proj, "bias")) is not None:
        params["out bias"] = last
    return params, {"heads": heads, "scale": params["query"].shape[2] ** -0.5, "time_first": False}


def _mask(package: str, named: Mapping[str, np.ndarray], heads: int) -> dict[str, np.ndarray]:
    """The mask, (B or 1, heads or 1, queries or 1, keys), True where a key is kept, and the term added to scores."""
    kept: list[np.ndarray] = []
    params: dict[str, np.ndarray] = {}

    def note(mask: np.ndarray, dropped: bool) -> None:
        if mask.dtype.kind == "f":
            params["added"] = params.get("added", 0.0) + np.asarray(mask, np.float64)
        else:
            kept.append((mask == 0) if dropped else (mask != 0))

    for name, is_dropped in (("key_padding_mask", True), ("key_mask", False), ("value_mask", False)):
        if name in named:
            note(named[name][:, None, None, :], is_dropped)
    for name, is_dropped in (("attn_mask", True), ("mask", False), ("attention_mask", False)):
        if name in named:
            mask = named[name]
            if mask.ndim == 3 and package == "torch":
                mask = mask.reshape(-1, heads, *mask.shape[1:])
            elif mask.ndim == 3:
                mask = mask[:, None]
            note(mask if mask.ndim == 4 else mask[None, None], is_dropped)
    if kept:
        whole = kept[0]
        for mask in kept[1:]:
            whole = whole & mask
        params["mask"] = whole
    return params


def attend(layer: Layer, x: np.ndarray) -> np.ndarray:
    """The layer's output (B, queries, out)."""
    params, options = layer.params, layer.options
    inputs = [x, params.get("input key", x), params.get("input value", x)]
    if options["time_first"]:
        inputs = [array.swapaxes(0, 1) for array in inputs]
    q, k, v = (
        np.einsum("btd,dhs->bhts", array, params[part]) + params.get(f"{part} bias", np.zeros((1, 1)))[:, None]
        for part, array in zip(_PARTS, inputs, strict=True)
    )
    scores = q @ k.swapaxes(-1, -2) * options["scale"] + params.get("added", 0.0)
    y = attention_weights(scores, _kept(layer, scores.shape[2], scores.shape[3]), options["axis"]) @ v
    total = np.einsum("bhts,hsd->btd", y, params["out"]) + params.get("out bias", 0.0)
    return total.swapaxes(0, 1) if options["time_first"] else total


def _kept(layer: Layer, queries: int, keys: int) -> np.ndarray | None:
    distance = np.arange(queries)[:, None] - np.arange(keys)
    causal = {"causal": distance >= 0, "strict": distance > 0, "ahead": distance >= -1, "past": distance <= 0}
    part = causal.get(layer.options["causal"])
    mask = layer.params.get("mask")
    if mask is None or layer.options["mask"] == "none":
        return part
    mask = ~mask if layer.options["mask"] == "inverted" else mask
    return mask if part is None else mask & part


def attention_mistakes(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    """The changes that are tried: masks, biases, scales, exchanged kernels, heads, the axis of the softmax.

    In float64 each is tried with the scale rounded to float32 too, as Keras does.
    """
    yield from _changes(layer)
    if x.dtype == np.float64:
        for own, other, changed in (("", "", layer), *((one.own, one.other, one.layer) for one in _changes(layer))):
            rounded = changed.with_options(scale=float(np.float32(changed.options["scale"])))
            words = f"{other}, and its scale" if other else "its scale"
            yield Mistake(own or "its scale as it is", f"{words} rounded to float32", rounded)


def _changes(layer: Layer) -> Iterator[Mistake]:
    yield from _masks(layer)
    for names in (_PARTS, ("out",), ("query",), ("value",), ("key",), (*_PARTS, "out")):
        biases = [f"{name} bias" for name in names if f"{name} bias" in layer.params]
        if biases:
            params = {name: array for name, array in layer.params.items() if name not in biases}
            yield Mistake(
                "with its biases", f"without the bias of {_listed(names)}", Layer(layer.kind, params, layer.options)
            )
    size, own = layer.params["query"].shape[2], layer.options["scale"]
    heads = layer.options["heads"]
    for words, scale in scales(heads * size, size, heads).items():
        if not np.isclose(scale, own):
            yield Mistake(f"scale {own:.4g}", f"scale {words}, {scale:.4g}", layer.with_options(scale=scale))
    for order in list(itertools.permutations(_PARTS))[1:]:
        yield from _exchanged(layer, order)
    yield from _headed(layer)
    yield Mistake("softmax over the keys", "softmax over the queries", layer.with_options(axis=-2))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _masks(layer: Layer) -> Iterator[Mistake]:
    options = layer.options
    has_mask = "mask" in layer.params
    own = _mask_words("given" if has_mask else "none", options["causal"])
    for given, causal in itertools.product(_GIVEN if has_mask else ("none",), _CAUSAL):
        changed = layer.with_options(mask=given, causal=causal)
        if (given, causal) != (options["mask"] if has_mask else "none", options["causal"]):
            yield Mistake(own, _mask_words(given, causal), changed)
    if has_mask and layer.params["mask"].shape[2] == layer.params["mask"].shape[3]:
        turned = layer.with_params(mask=layer.params["mask"].swapaxes(2, 3))
        yield Mistake(own, "its mask with queries and keys exchanged", turned)


def _mask_words(given: str, causal: str) -> str:
    if given == "none":
        return _CAUSAL[causal] or _GIVEN["none"]
    return f"{_GIVEN[given]} and {_CAUSAL[causal]}" if causal else _GIVEN[given]


def _exchanged(layer: Layer, order: Sequence[str]) -> Iterator[Mistake]:
    shapes = {layer.params[part].shape for part in _PARTS}
    if len(shapes) > 1:
        return
    suffixes = [("", "kernels and biases"), ("", "kernels")] if "query bias" in layer.params else [("", "kernels")]
    for _, words in suffixes:
        changed = {part: layer.params[other] for part, other in zip(_PARTS, order, strict=True)}
        if "biases" in words:
            named = zip(_PARTS, order, strict=True)
            changed |= {f"{part} bias": layer.params[f"{other} bias"] for part, other in named}
        said = f"for query, key and value the {words} of {_listed(order)}"
        yield Mistake("its kernels as they are", said, layer.with_params(**changed))


def _headed(layer: Layer) -> Iterator[Mistake]:
    """Heads that are interleaved, of another number, or kernels that are transposed."""
    params = layer.params
    own = "its kernels by head"
    for names in (_PARTS, (*_PARTS, "out"), ("out",), ("query", "key"), ("query",), ("key",), ("value",)):
        kernels = {name: _interleaved(params[name], name) for name in names}
        biases = {
            f"{name} bias": _interleaved(params[f"{name} bias"], name)
            for name in names
            if name != "out" and f"{name} bias" in params
        }
        words = f"the heads of {_listed(names)} interleaved"
        yield Mistake(own, words, layer.with_params(**kernels, **biases))
        if biases:
            yield Mistake(own, f"{words} in the kernels, not in the biases", layer.with_params(**kernels))
        turned = {name: array for name in names if (array := _transposed(params[name], name)) is not None}
        if turned:
            yield Mistake(own, f"the kernel of {_listed(list(turned))} transposed", layer.with_params(**turned))
    heads, size = params["query"].shape[1:]
    for count in range(1, min(heads * size, 16) + 1):
        if heads * size % count == 0 and count != heads:
            changed = {
                name: array.reshape(*array.shape[: -2 if name != "out" else 0], count, -1)
                if name != "out"
                else array.reshape(count, -1, array.shape[2])
                for name, array in params.items()
                if name.removesuffix(" bias") in _PARTS or name == "out"
            }
            other = layer.with_params(**changed).with_options(heads=count, scale=(heads * size // count) ** -0.5)
            yield Mistake(f"{heads} heads", f"{count} heads", other)


def _interleaved(array: np.ndarray, name: str) -> np.ndarray:
    """The same numbers, read as (size, heads) where the layer has (heads, size)."""
    axis = 0 if name == "out" else array.ndim - 2
    heads, size = array.shape[axis : axis + 2]
    split = array.reshape(*array.shape[:axis], size, heads, *array.shape[axis + 2 :])
    return np.swapaxes(split, axis, axis + 1)


def _transposed(array: np.ndarray, name: str) -> np.ndarray | None:
    matrix = array.reshape(-1, array.shape[2]) if name == "out" else array.reshape(len(array), -1)
    return matrix.T.reshape(array.shape) if matrix.shape[0] == matrix.shape[1] else None
