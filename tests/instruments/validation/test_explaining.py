"""The function between two layers is named from recorded arrays alone."""

import numpy as np
import pytest

from gradreg_validation.attending import attentions
from gradreg_validation.explaining import explanations
from gradreg_validation.forms import FORMS
from gradreg_validation.known import Facts, Known
from gradreg_validation.relating import relation

draw = np.random.default_rng(0).normal
WITHIN = 6e-6
"""A hundred unit roundoffs of float32, as the diagnosis allows for arrays of frameworks in float32."""
IMAGE, OTHER, LAST = draw(size=(2, 4, 6, 6)), draw(size=(2, 4, 6, 6)), draw(size=(2, 6, 6, 4))
GATE, MU, EPS, ROWS = draw(size=(2, 4)), draw(size=(3, 5)), draw(size=(3, 5)), draw(size=(3, 6))
WIDE = draw(size=(2, 8, 6, 6))
SCALE, TOKENS, GRAPH = draw(size=4), draw(size=(2, 4, 8)), (draw(size=(2, 4, 4)) > 0).astype(float) + np.eye(4)
SERIES, SHORT, ROWS4 = draw(size=(3, 4, 8)), 0.1 * draw(size=(3, 4, 5)), draw(size=(3, 4))
QKV = {name: SERIES[:, :, i : i + 6] for i, name in enumerate("qkv")}
EXPERTS = [draw(size=(5, 3)), *draw(size=(3, 5, 4))]
sigmoid, relu = FORMS["sigmoid"], FORMS["relu"]


def wide(gate):
    return gate[:, :, None, None]


def pixels(x, block_first):
    split = x.reshape(2, 2, 2, 2, 6, 6)
    return split.transpose((0, 3, 4, 1, 5, 2) if block_first else (0, 1, 4, 2, 5, 3)).reshape(2, 2, 12, 12)


def positions(x, ddof=0, eps=1e-5):
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True, ddof=ddof) + eps)


def attended(normed=False, ahead=0, slope=0.0):
    """Causal attention with two heads, (3, 4, 6)."""
    q, k, v = (np.moveaxis(SERIES[:, :, i : i + 6].reshape(3, 4, 2, 3), 2, 1) for i in range(3))
    if normed:
        q, k = (array / np.linalg.norm(array, axis=-1, keepdims=True) for array in (q, k))
    distance = np.arange(4)[:, None] - np.arange(4)
    scores = q @ k.swapaxes(-1, -2) / 3**0.5 - slope * np.array([1 / 16, 1 / 256])[:, None, None] * np.abs(distance)
    power = np.exp(np.where(distance >= -ahead, scores, -np.inf))
    return np.moveaxis(power / power.sum(-1, keepdims=True) @ v, 1, 2).reshape(3, 4, 6)


def routed(renormalised):
    weights = FORMS["softmax over the last axis"](EXPERTS[0])
    top = np.where(weights >= np.sort(weights, -1)[:, 1:2], weights, 0)
    top = top / top.sum(-1, keepdims=True) if renormalised else top
    return sum(top[:, i : i + 1] * EXPERTS[i + 1] for i in range(3))


def deviation(eps):
    return np.sqrt(SHORT.var(1, keepdims=True) + eps)


PAIRS = {
    "a causal mask off by one": (
        QKV,
        attended(),
        attended(ahead=1),
        "a causal mask (q, k, v = q, k, v)",
        "a causal mask that lets one later position in",
    ),
    "the sign of ALiBi": (
        QKV,
        attended(slope=1),
        attended(slope=-1),
        "a causal mask, ALiBi: minus slope times distance",
        "a causal mask, ALiBi with the wrong sign: plus slope times distance",
    ),
    "queries and keys that are not normalised": (
        QKV,
        attended(normed=True),
        attended(),
        "a causal mask, q and k over their norm",
        "a causal mask (q, k, v = q, k, v)",
    ),
    "gates of experts that are not divided by their sum": (
        {"gate": EXPERTS[0], "e0": EXPERTS[1], "e1": EXPERTS[2], "e2": EXPERTS[3]},
        routed(True),
        routed(False),
        "the sum of e0 to e2, weighted by softmax of gate, the top 2 divided by their sum",
        "the sum of e0 to e2, weighted by softmax of gate, the top 2 as they are",
    ),
    "a forecast scaled back without eps": (
        {"series": SHORT, "h": SERIES[:, :, :5]},
        SERIES[:, :, :5] * deviation(1e-2) + SHORT.mean(1, keepdims=True),
        SERIES[:, :, :5] * deviation(0) + SHORT.mean(1, keepdims=True),
        "h times the deviation of series over its steps, eps=0.01, plus the mean",
        "h times the deviation of series over its steps, eps=0, plus the mean",
    ),
    "a weight of RMSNorm for 1 + weight": (
        {"h": ROWS4},
        ROWS4 / np.sqrt((ROWS4**2).mean(-1, keepdims=True) + 1e-6) * (1 + SCALE),
        ROWS4 / np.sqrt((ROWS4**2).mean(-1, keepdims=True) + 1e-6) * SCALE,
        "h divided by its root mean square over the last axis, eps=1e-06, times (1 + the parameter gamma)",
        "h divided by its root mean square over the last axis, eps=1e-06, times the parameter gamma",
    ),
    "a concatenation of three in another order": (
        {"a": IMAGE, "b": OTHER, "c": IMAGE[:, :2] + 1},
        np.concatenate([relu(IMAGE), OTHER, IMAGE[:, :2] + 1], 1),
        np.concatenate([OTHER, relu(IMAGE), IMAGE[:, :2] + 1], 1),
        "relu of a, b, c joined along axis 1",
        "b, relu of a, c joined along axis 1",
    ),
    "a skip left out, before a mean": (
        {"x": IMAGE, "h": OTHER},
        (IMAGE + OTHER).mean((2, 3)),
        OTHER.mean((2, 3)),
        "the mean of (h plus x) over the axes (2, 3)",
        "the mean of h over the axes (2, 3)",
    ),
    "a gate of another form, beside a skip": (
        {"h": IMAGE, "g": GATE},
        IMAGE + IMAGE * wide(sigmoid(GATE)),
        IMAGE + IMAGE * wide(FORMS["softmax over the last axis"](GATE)),
        "h plus h times sigmoid of g",
        "h plus h times softmax over the last axis of g",
    ),
    "channels not shuffled": (
        {"h": IMAGE},
        IMAGE.reshape(2, 2, 2, 6, 6).swapaxes(1, 2).reshape(2, 4, 6, 6),
        IMAGE,
        "h with axis 1 shuffled: 2 groups, their members interleaved",
        "h",
    ),
    "a pixel shuffle of the other framework": (
        {"h": WIDE},
        pixels(WIDE, block_first=False),
        pixels(WIDE, block_first=True),
        "channels before the block, as PyTorch's pixel shuffle",
        "the block before the channels, as TensorFlow's depth_to_space",
    ),
    "padding on the other side": (
        {"x": IMAGE},
        np.pad(IMAGE, [(0, 0), (0, 0), (1, 0), (0, 0)]),
        np.pad(IMAGE, [(0, 0), (0, 0), (0, 1), (0, 0)]),
        "x padded by (1, 0) along axis 2 with zeros",
        "x padded by (0, 1) along axis 2 with zeros",
    ),
    "the half of a logarithm of a variance": (
        {"mu": MU, "lv": MU[::-1] ** 2, "eps": EPS},
        MU + np.exp(MU[::-1] ** 2 / 2) * EPS,
        MU + np.exp(MU[::-1] ** 2) * EPS,
        "mu plus eps times exp of half of lv",
        "mu plus eps times exp of lv",
    ),
    "halves of a gated unit exchanged, before a mean": (
        {"h": IMAGE},
        (IMAGE[:, :2] * sigmoid(IMAGE[:, 2:])).mean((2, 3)),
        (IMAGE[:, 2:] * sigmoid(IMAGE[:, :2])).mean((2, 3)),
        "the first half of h times sigmoid of the second",
        "sigmoid of the first half of h times the second",
    ),
    "gated channels taken by turns": (
        {"h": IMAGE},
        IMAGE[:, :2] * sigmoid(IMAGE[:, 2:]),
        IMAGE[:, ::2] * sigmoid(IMAGE[:, 1::2]),
        "the first half of h times",
        "the even channels of h times sigmoid of the odd ones",
    ),
    "a variance over n - 1": (
        {"x": ROWS},
        positions(ROWS),
        positions(ROWS, ddof=1),
        "x centred and divided by its deviation over the last axis",
        "x centred and divided by its deviation with n - 1 over the last axis",
    ),
    "FiLM without the one": (
        {"h": IMAGE, "g": GATE, "b": GATE[::-1]},
        FORMS["softplus"]((1 + wide(GATE)) * IMAGE + wide(GATE[::-1])),
        FORMS["softplus"](wide(GATE) * IMAGE + wide(GATE[::-1])),
        "softplus of (b plus h times (1 + g))",
        "softplus of (b plus h times g)",
    ),
    "the sum of neighbours for their mean": (
        {"x": TOKENS, "adjacency": GRAPH},
        GRAPH @ TOKENS / GRAPH.sum(2, keepdims=True),
        GRAPH @ TOKENS,
        "the mean of x over neighbours by adjacency",
        "the sum of x over neighbours by adjacency",
    ),
    "logsumexp for the mean": (
        {"h": IMAGE},
        np.log(np.exp(IMAGE).sum((2, 3))),
        IMAGE.mean((2, 3)),
        "the logsumexp of h over the axes (2, 3)",
        "the mean of h over the axes (2, 3)",
    ),
    "a factor per channel, channels last": (
        {"x": IMAGE, "h": LAST},
        (IMAGE + np.moveaxis(LAST * SCALE, -1, 1)).mean((2, 3)),
        (IMAGE + np.moveaxis(LAST, -1, 1)).mean((2, 3)),
        "the mean of (x plus h times the parameter gamma) over the axes (2, 3)",
        "the mean of (h plus x) over the axes (1, 2)",
    ),
    "embeddings that are not scaled": (
        {"embed": TOKENS},
        TOKENS * 8**0.5 + np.arange(32.0).reshape(4, 8),
        TOKENS + np.arange(32.0).reshape(4, 8),
        "embed times 2.828 plus a term that is the same for every sample",
        "embed plus a term that is the same for every sample",
    ),
}


def facts(arrays):
    inputs = [Known(label, array) for label, array in arrays.items() if label in ("adjacency", "series")]
    layers = [Known(label, array) for label, array in arrays.items() if label not in ("adjacency", "series")]
    return Facts(inputs, layers, (), [Known("the parameter gamma", SCALE)])


LONG = {"the sign of ALiBi", "queries and keys that are not normalised"}
CASES = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in sorted(PAIRS)]


@pytest.mark.parametrize("name", CASES)
def test_both_arrays_are_named_and_the_names_differ(name):
    arrays, first, second, *words = PAIRS[name]
    sets = [explanations(array.astype(np.float32), facts(arrays), WITHIN) for array in (first, second)]
    for one, other, expected in zip(sets, sets[::-1], words, strict=True):
        assert any(expected in said for said in one), list(one)
        assert not set(one) & set(other)


def test_noise_has_no_name():
    arrays = {"a": IMAGE, "b": OTHER, "g": GATE}
    for shape in ((2, 4, 6, 6), (2, 4), (2, 8, 6, 6), (2, 144)):
        assert explanations(draw(size=shape).astype(np.float32), facts(arrays), WITHIN) == {}


def test_no_shape_of_attention_raises():
    near = [("q", TOKENS), ("k", TOKENS[:, :3]), ("v", TOKENS[:, :3]), ("image", draw(size=(2, 8, 2, 2)))]
    for shape in ((2, 4, 8), (2, 7, 6, 6), (2, 5, 8), (2, 4, 2, 4), (2, 3, 1, 1)):
        for _, y in attentions(np.zeros(shape), near, [("mask", GRAPH)], positions=True):
            assert y.shape == shape


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (lambda y: 0.5 * y, "is that of the first times 0.5"),
        (relu, "is relu of that of the first"),
        (lambda y: np.concatenate([y[..., 4:], y[..., :4]], -1), "its 2 blocks along axis 2 in the order (1, 0)"),
        (lambda y: y[..., [2, 0, 1, 4, 3, 7, 5, 6]], "with axis 2 in the order (2, 0, 1, 4, 3, 7, 5, 6)"),
        (lambda y: y - TOKENS, "is that of the first minus h"),
        (lambda y: y + 3 * TOKENS, "is that of the first plus h times 3"),
        (lambda y: y + np.arange(32.0).reshape(4, 8), "plus a term that is the same for every sample"),
    ],
)
def test_what_nothing_explains_is_related_to_the_other_model(second, words):
    first = draw(size=(2, 4, 8))
    assert words in relation(first, second(first), facts({"h": TOKENS}), WITHIN)
    assert relation(first, draw(size=(2, 4, 8)), facts({"h": TOKENS}), WITHIN) == ""
    assert relation(first, first * (1 + 1e-6), facts({"h": TOKENS}), WITHIN) == ""
