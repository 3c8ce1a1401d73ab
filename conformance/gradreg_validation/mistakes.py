"""The usual mistakes in ports of a layer, as changes to its description.

Every entry is tried on the recorded input. Only one that turns the layer's output into the other model's is named.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gradreg_validation.emulation import pads_of
from gradreg_validation.forms import FORMS
from gradreg_validation.heads import attention_mistakes
from gradreg_validation.layer import Layer, Mistake

__all__ = ["mistakes"]


def mistakes(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    """The changes that are tried, the plainest first."""
    yield from _biases(layer)
    yield from _activations(layer)
    if "eps" in layer.options:
        yield from _eps(layer)
    for kind, tried in _TRIED.items():
        if layer.kind in kind:
            yield from tried(layer, x)


def _biases(layer: Layer) -> Iterator[Mistake]:
    for name, words in (("bias", "bias"), ("recurrent_bias", "second (recurrent) bias"), ("scale", "scale")):
        if name in layer.params:
            yield Mistake(f"with the {words}", f"without the {words}", layer.without(name))
    if {"bias", "recurrent_bias"} <= set(layer.params):
        total = layer.params["bias"] + layer.params["recurrent_bias"]
        yield Mistake("with two biases", "with both biases added before the gate", _merged(layer, total))


def _merged(layer: Layer, total: np.ndarray) -> Layer:
    return layer.with_params(bias=total, recurrent_bias=np.zeros_like(total))


def _activations(layer: Layer) -> Iterator[Mistake]:
    if layer.kind in ("dense", "conv", "conv_transpose", "batch_norm"):
        own = layer.activation or "no activation"
        for form in [None, *FORMS]:
            if form not in (layer.activation, "the identity"):
                yield Mistake(f"with {own}", f"with {form or 'no activation'}", replace(layer, activation=form))


def _eps(layer: Layer) -> Iterator[Mistake]:
    own = layer.options["eps"]
    for eps in (1e-3, 1e-5, 1e-6, 1e-12, 1e-8, 1e-7, 1e-2, 1e-4, 0.0):
        if eps != own:
            yield Mistake(f"eps={own:g}", f"eps={eps:g}", layer.with_options(eps=eps))
    yield Mistake(f"eps={own:g}", "eps outside of the root", layer.with_options(eps_outside=True))
    for exponent in np.arange(-8, 0.01, 0.25):
        yield Mistake(f"eps={own:g}", "another eps", layer.with_options(eps=float(10**exponent)), fitted=True)


def _kernels(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    kernel = layer.params["kernel"]
    n = kernel.ndim - 2
    plain = f"the kernel {kernel.shape} as it is"
    for order in itertools.permutations(range(kernel.ndim)):
        turned = np.transpose(kernel, order)
        if order != tuple(range(kernel.ndim)) and turned.shape == kernel.shape:
            words = "the kernel transposed" if kernel.ndim == 2 else f"the kernel with its axes permuted to {order}"
            if order == (0, 1, 3, 2):
                words = "the kernel with height and width exchanged"
            yield Mistake(plain, words, layer.with_params(kernel=turned))
    for count in range(1, n + 1):
        for axes in itertools.combinations(range(2, kernel.ndim), count):
            words = f"the kernel flipped along {'its window' if count == n else f'axis {axes[0]}'}"
            yield Mistake(plain, words, layer.with_params(kernel=np.flip(kernel, axes)))
    for axis, name in ((0, "outputs"), (1, "inputs")):
        yield Mistake(plain, f"the kernel's {name} in reversed order", layer.with_params(kernel=np.flip(kernel, axis)))
    if kernel.ndim > 2:
        swapped = np.swapaxes(kernel, 0, 1).reshape(kernel.shape)
        yield Mistake(plain, "the kernel reshaped where its axes should be permuted", layer.with_params(kernel=swapped))
    swapped = kernel.T.reshape(kernel.shape)
    yield Mistake(plain, "the kernel reshaped where it should be transposed", layer.with_params(kernel=swapped))


def _dense(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    yield from _kernels(layer, x)
    yield from _flattened(layer)


def _flattened(layer: Layer) -> Iterator[Mistake]:
    """The rows of a dense layer behind a flatten, in the other order, for every (channels, positions)."""
    kernel = layer.params["kernel"]
    size = kernel.shape[1]
    for channels in range(2, size // 2 + 1):
        if size % channels == 0:
            turned = kernel.reshape(len(kernel), channels, -1).swapaxes(1, 2).reshape(kernel.shape)
            words = f"inputs in the order of a flatten of (..., {channels}) in place of ({channels}, ...)"
            yield Mistake("its inputs as they are", words, layer.with_params(kernel=turned))


def _conv(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    yield from _paddings(layer, x)
    yield from _kernels(layer, x)
    n = layer.params["kernel"].ndim - 2
    own = layer.options["dilation"]
    for dilation in (1, 2, 3, 4):
        if (dilation,) * n != own:
            changed = layer.with_options(dilation=(dilation,) * n)
            yield Mistake(f"dilation {own}", f"dilation {dilation}", changed)
            if layer.options["padding"] not in ("same", "valid", "causal"):
                same = changed.with_options(
                    padding=[((dilation * (k - 1)) // 2,) * 2 for k in layer.params["kernel"].shape[2:]]
                )
                yield Mistake(f"dilation {own}", f"dilation {dilation} (padded alike)", same)
                total = [(sum(p), 0) for p in layer.options["padding"]]
                yield Mistake(f"dilation {own}", f"dilation {dilation}, causal", changed.with_options(padding=total))
                yield Mistake(f"dilation {own}", f"dilation {dilation}, causal", changed.with_options(padding="causal"))
    groups, kernel = layer.options["groups"], layer.params["kernel"]
    if 1 < groups < len(kernel):
        order = np.arange(len(kernel)).reshape(groups, -1).T.ravel()
        yield Mistake(
            "its output channels by group", "its output channels interleaved", layer.with_params(kernel=kernel[order])
        )
        order = np.arange(len(kernel)).reshape(-1, groups).T.ravel()
        yield Mistake(
            "its output channels by group", "its output channels interleaved", layer.with_params(kernel=kernel[order])
        )
    yield from (
        Mistake(f"strides {layer.options['strides']}", f"strides {s}", layer.with_options(strides=(s,) * n))
        for s in (1, 2)
        if (s,) * n != layer.options["strides"]
    )


def _paddings(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    options = layer.options
    window = layer.params["kernel"].shape[2:] if "kernel" in layer.params else options["window"]
    sizes = (x.shape[1:-1] if layer.channels_last else x.shape[2:])[: len(window)]
    own = _pads(options, sizes, window)
    choices: list[tuple[str, Any]] = [
        ('"same"', "same"),
        ('"same" with the odd zero before', "same-low"),
        ('"valid"', "valid"),
        ("causal padding", "causal"),
    ]
    choices += [
        (f"padding {pair} on every axis", [pair] * len(window))
        for pair in itertools.product(range(max(window) + 1), repeat=2)
    ]
    total = [sum(pair) for pair in own]
    choices += [("all padding before", [(t, 0) for t in total]), ("all padding after", [(0, t) for t in total])]
    for words, padding in choices:
        changed = layer.with_options(padding=padding)
        pads = _pads(changed.options, sizes, window)
        if pads != own:
            yield Mistake(f"padding {own}", f"padding {pads} ({words})", changed)
    for mode in ("zeros", "reflect", "replicate", "circular"):
        if mode != options.get("padding_mode", "zeros"):
            was = options.get("padding_mode", "zeros")
            yield Mistake(f"padding mode {was}", f"padding mode {mode}", layer.with_options(padding_mode=mode))


def _pads(options: dict[str, Any], sizes: tuple[int, ...], window: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(int(before), int(after)) for before, after in pads_of(options, sizes, window)]


def _conv_transpose(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    yield from _kernels(layer, x)
    n = layer.params["kernel"].ndim - 2
    options = layer.options
    own = options["crops"] if isinstance(options["crops"], str) else f"padding {options['crops'][0][0]}"
    for words in ("same", "same-low", "valid"):
        yield Mistake(str(own), f'padding "{words}"', layer.with_options(crops=words))
    for before, extra in itertools.product(range(4), range(3)):
        crops = [(before, "torch", extra)] * n
        yield Mistake(str(own), f"padding {before} with output padding {extra}", layer.with_options(crops=crops))
    sizes = x.shape[1:-1] if layer.channels_last else x.shape[2:]
    for before in range(3):
        cut = [(before, m * s) for m, s in zip(sizes, options["strides"], strict=True)]
        yield Mistake(str(own), f"its output cut from {before} on", layer.with_options(crops=cut))
        flipped = np.flip(layer.params["kernel"], tuple(range(2, 2 + n)))
        both = layer.with_options(crops=cut).with_params(kernel=flipped)
        yield Mistake(str(own), f"its output cut from {before} on and its kernel flipped", both)


def _layer_norm(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    own, count = layer.options["centre"], layer.options["count"]
    yield Mistake(
        "with the mean subtracted" if own else "without subtracting the mean",
        "without subtracting the mean" if own else "with the mean subtracted",
        layer.with_options(centre=not own),
    )
    for other in range(1, x.ndim):
        if other != count:
            yield Mistake(f"over {count} axes", f"over the last {other} axes", layer.with_options(count=other))
    yield Mistake("variance over n", "variance over n - 1", layer.with_options(ddof=1))
    offset = layer.options.get("scale_offset", 0.0)
    words = ("1 + scale", "scale") if offset else ("scale", "1 + scale")
    yield Mistake(*words, layer.with_options(scale_offset=1.0 - offset))


def _batch_norm(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    training = layer.options["training"]
    moving, batch = "with the moving statistics (evaluation)", "with the batch's statistics (training mode)"
    own, other = (batch, moving) if training else (moving, batch)
    yield Mistake(own, other, layer.with_options(training=not training))
    if not training and {"mean", "variance"} <= set(layer.params):
        mean, variance = layer.params["mean"], layer.params["variance"]
        words = "mean and variance", "mean and variance exchanged"
        yield Mistake(*words, layer.with_params(mean=variance, variance=mean))
        fresh = layer.with_params(mean=np.zeros_like(mean), variance=np.ones_like(variance))
        yield Mistake("its moving statistics", "moving statistics 0 and 1: they were not copied", fresh)
        root = layer.with_params(variance=variance**2)
        yield Mistake("its moving variance", "a standard deviation in place of the moving variance", root)
        root = layer.with_params(variance=np.sqrt(np.maximum(variance, 0)))
        yield Mistake("its moving variance", "a variance in place of the standard deviation", root)


def _group_norm(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    channels, own = x.shape[-1 if layer.channels_last else 1], layer.options["groups"]
    for groups in range(1, channels + 1):
        if channels % groups == 0 and groups != own:
            yield Mistake(f"{own} groups", f"{groups} groups", layer.with_options(groups=groups))
    yield Mistake(
        "groups of neighbouring channels", "groups of interleaved channels", layer.with_options(interleaved=True)
    )
    yield Mistake("variance over n", "variance over n - 1", layer.with_options(ddof=1))


def _embedding(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    root = layer.params["kernel"].shape[1] ** 0.5
    yield Mistake("its rows as they are", "its rows times sqrt(features)", layer.with_options(scale=root))
    yield Mistake("its rows as they are", "its rows over sqrt(features)", layer.with_options(scale=1 / root))
    for shift in (1, -1, 2, -2):
        yield Mistake("indices as they are", f"indices shifted by {shift:+d}", layer.with_options(shift=shift))
    for index in (0, len(layer.params["kernel"]) - 1):
        yield Mistake("every row", f"index {index} as padding, a row of zeros", layer.with_options(padding_index=index))


def _pool(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    options = layer.options
    if options.get("ceil"):
        floor = layer.with_options(ceil=False)
        yield Mistake("ceil_mode, a last window that is not full", "only full windows", floor)
    yield from _paddings(layer, x)
    names = {True: "the maximum", False: "the average"}
    own = names[options["maximum"]]
    yield Mistake(own, names[not options["maximum"]], layer.with_options(maximum=not options["maximum"]))
    counted = {True: "zeros of the padding counted", False: "zeros of the padding not counted"}
    was = bool(options["counts_padding"])
    yield Mistake(counted[was], counted[not was], layer.with_options(counts_padding=not was))


def _prelu(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    own, slope = "its slopes", layer.params["slope"]
    for value in (0.25, 0.0, 0.01, 0.1, 0.2, 0.3, 1.0):
        words = f"the slope {value:g} everywhere" + (": its slopes were not copied" if value in (0.0, 0.25) else "")
        yield Mistake(own, words, layer.with_params(slope=np.full_like(slope, value)))
    yield Mistake(own, "its first slope everywhere", layer.with_params(slope=np.full_like(slope, np.ravel(slope)[0])))


def _recurrent(layer: Layer, x: np.ndarray) -> Iterator[Mistake]:
    if "backward kernel" in layer.params:
        yield from _both_ways(layer)
    order = layer.options.get("order", "")
    for other in itertools.permutations(order):
        if "".join(other) != order:
            changed = layer.with_options(order="".join(other))
            yield Mistake(f"gates in the order {', '.join(order)}", f"gates in the order {', '.join(other)}", changed)
    if layer.kind == "lstm":
        yield Mistake("the forget bias as it is", "1 added to the forget bias", layer.with_options(forget_bias=1.0))
        yield Mistake(
            "the forget bias as it is", "1 subtracted from the forget bias", layer.with_options(forget_bias=-1.0)
        )
    if layer.kind == "gru":
        after = layer.options.get("reset_after", True)
        words = {
            True: "the reset gate after the recurrent product",
            False: "the reset gate before the recurrent product",
        }
        yield Mistake(words[after], words[not after], layer.with_options(reset_after=not after))
        swapped = layer.with_options(swapped=True)
        yield Mistake("h = z h + (1 - z) n", "h = (1 - z) h + z n, the update gate inverted", swapped)
    if "recurrent" in layer.params:
        turned = layer.params["recurrent"]
        units = turned.shape[1]
        blocks = np.concatenate([block.T for block in np.split(turned, len(turned) // units)])
        yield Mistake(
            "the recurrent kernel as it is", "its recurrent kernel transposed", layer.with_params(recurrent=blocks)
        )
    for gate in ("hard sigmoid, clip(0.2 x + 0.5)", "hard sigmoid, relu6(x + 3) / 6"):
        yield Mistake("sigmoid gates", f"gates of {gate}", layer.with_options(gate=gate))
    for form in ("relu", "sigmoid", "tanh"):
        if form != layer.options.get("activation"):
            own = layer.options.get("activation", "tanh")
            yield Mistake(f"{own} states", f"{form} states", layer.with_options(activation=form))
    reverse = bool(layer.options.get("reverse"))
    words_of = {False: "from first to last", True: "from last to first"}
    for aligned in (True, False):
        changed = layer.with_options(reverse=not reverse, realigned=aligned)
        yield Mistake(words_of[reverse], words_of[not reverse], changed)
    yield Mistake(
        "axis 1 as time", "axis 0 as time", layer.with_options(time_first=not layer.options.get("time_first"))
    )


def _both_ways(layer: Layer) -> Iterator[Mistake]:
    own = "forward, backward"
    for joined in ("backward, forward", "sum", "mean", "product"):
        yield Mistake(f"the directions joined as {own}", f"as {joined}", layer.with_options(joined=joined))
    words = "the backward states in the order in which they were made, not turned round again"
    yield Mistake("the backward states turned round again", words, layer.with_options(realigned=False))
    swapped = {
        name.removeprefix("backward ") if name.startswith("backward ") else f"backward {name}": array
        for name, array in layer.params.items()
    }
    yield Mistake("its parameters", "the parameters of the two directions exchanged", layer.with_params(**swapped))
    alone = {name: array for name, array in layer.params.items() if not name.startswith("backward ")}
    yield Mistake("both directions", "the forward direction alone", replace(layer, params=alone))


_TRIED = {
    ("attention",): attention_mistakes,
    ("dense",): _dense,
    ("conv",): _conv,
    ("conv_transpose",): _conv_transpose,
    ("layer_norm",): _layer_norm,
    ("batch_norm",): _batch_norm,
    ("group_norm",): _group_norm,
    ("embedding",): _embedding,
    ("pool",): _pool,
    ("prelu",): _prelu,
    ("lstm", "gru", "rnn"): _recurrent,
}
