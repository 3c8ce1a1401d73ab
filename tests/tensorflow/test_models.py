"""Models as people have them, each against double backward written by hand in float64, eager and in tf.function."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import gradreg_tensorflow as gradreg
from gradreg_core.presets import R1, DataGrad, FrobReg, GradientPenalty, SpectReg
from gradreg_core.projections import ones
from gradreg_core.spec import Regularizer
from tensorflow_models import MODES

RIGHT = 1e-11
"""Relative error in norm: float64 sums of thousands of products in another order, and attention's exponentials."""
BATCH = 4
LABELS = np.array([0, 2, 1, 1])
TOKENS = tf.constant(np.random.default_rng(3).integers(0, 9, (BATCH, 5)))
BOTH = ["eager", "graph"]
DOUBLE = {"dtype": "float64"}


def random(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).standard_normal(shape))


def squared_norms(tape: tf.GradientTape, of: tf.Tensor, places: Sequence[tf.Tensor]) -> tf.Tensor:
    """||J_i||_F^2 of each sample with respect to all `places`, by double backward, shape (B,)."""
    total = tf.zeros(len(of), tf.float64)
    flat = tf.reshape(of, (len(of), -1))
    for column in range(flat.shape[1]):
        w = tf.one_hot([column] * len(of), flat.shape[1], dtype=tf.float64)
        for gradient in tape.gradient(of, places, output_gradients=tf.reshape(w, of.shape)):
            total = total + tf.reduce_sum(tf.reshape(tf.convert_to_tensor(gradient) ** 2, (len(of), -1)), 1)
    return total


def evaluated(call: Callable[[], tf.Tensor], variables: Sequence[Any]) -> tuple[float, np.ndarray]:
    """The value, and the gradients of all variables together."""
    with tf.GradientTape() as tape:
        value = call()
    gradients = tape.gradient(value, variables, unconnected_gradients="zero")
    return value, tf.concat([tf.reshape(gradient, (-1,)) for gradient in gradients], 0)


def same(ours: Callable[[], tf.Tensor], wanted: Callable[[], tf.Tensor], variables: Sequence[Any], mode: str) -> None:
    """Equal values, and equal gradients of all variables together."""
    variables = [variable.value for variable in variables]
    right_value, right = evaluated(wanted, variables)
    value, gradient = MODES[mode](lambda: evaluated(ours, variables))()
    assert float(value) == pytest.approx(float(right_value), rel=RIGHT)
    assert np.linalg.norm(right) > 0
    assert np.linalg.norm(gradient - right) <= RIGHT * np.linalg.norm(right)


def dense(count: int, activation: str | None = None, **options: Any) -> Any:
    return layers.Dense(count, activation, **DOUBLE, **options)


# --- inputs and outputs ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", BOTH)
def test_a_functional_model_with_two_inputs(mode: str) -> None:
    image, command = (
        keras.Input((3,), name="image", dtype="float64"),
        keras.Input((2,), name="command", dtype="float64"),
    )
    outputs = dense(2)(dense(4, "tanh")(layers.Concatenate(**DOUBLE)([image, command])))
    model = keras.Model({"image": image, "command": command}, {"action": outputs, "squares": outputs**2})
    x = {"image": random(BATCH, 3), "command": random(BATCH, 2, seed=1)}

    def wanted(wrt: Sequence[str], output: str) -> tf.Tensor:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            z = model(x)[output]
        return tf.reduce_mean(squared_norms(tape, z, [x[name] for name in wrt]))

    weights = model.trainable_variables
    same(
        lambda: gradreg.penalty(model, x, None, FrobReg(1.0), outputs="action"),
        lambda: wanted(("image", "command"), "action"),
        weights,
        mode,
    )
    same(
        lambda: gradreg.penalty(model, gradreg.Inputs(x, wrt="0.image"), None, FrobReg(1.0), outputs="squares"),
        lambda: wanted(("image",), "squares"),
        weights,
        mode,
    )


@pytest.mark.parametrize("mode", BOTH)
def test_paths_to_outputs(mode: str) -> None:
    first, second, x = dense(3, "tanh"), dense(2), random(BATCH, 4)
    second(first(x))

    def model(x: tf.Tensor) -> Any:
        hidden = first(x)
        return {"heads": (second(hidden), hidden), "count": tf.reduce_sum(tf.cast(hidden > 0, tf.int32))}

    def wanted(*paths: int) -> tf.Tensor:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            heads = model(x)["heads"]
        return tf.add_n([tf.reduce_mean(squared_norms(tape, heads[path], [x])) for path in paths])

    weights = [*first.trainable_variables, *second.trainable_variables]
    cases: list[tuple[Any, tuple[int, ...]]] = [
        ("heads.0", (0,)),
        ("heads.1", (1,)),
        (["heads.0", "heads.1"], (0, 1)),
        (lambda returned: returned["heads"][0], (0,)),
    ]
    for outputs, paths in cases:
        same(
            lambda outputs=outputs: gradreg.penalty(model, x, None, FrobReg(1.0), outputs=outputs),
            lambda paths=paths: wanted(*paths),
            weights,
            mode,
        )
    _, parts = gradreg.loss(model, x, LABELS[:BATCH] % 2, FrobReg(1.0), outputs="heads.0")
    assert set(parts.outputs) == {"heads", "count"}


@pytest.mark.parametrize("mode", BOTH)
def test_a_hinge_on_the_norm_with_respect_to_observations_alone(mode: str) -> None:
    """A policy: the gradient of the log-probability of the action with respect to the observation, not the command."""
    body = keras.Sequential([layers.Input((5,), dtype="float64"), dense(6, "tanh"), dense(2)])
    observation, command, action = random(BATCH, 3), random(BATCH, 2, seed=1), random(BATCH, 2, seed=2)

    def policy(observation: tf.Tensor, command: tf.Tensor) -> tf.Tensor:
        return body(tf.concat([observation, command], 1))

    def negative_log_probability(mean: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        return 0.5 * tf.reduce_sum((action - mean) ** 2, 1)

    def wanted() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(observation)
            losses = negative_log_probability(policy(observation, command), action)
        return tf.reduce_mean(tf.reduce_sum(tape.gradient(losses, observation) ** 2, 1))

    x = gradreg.Inputs(observation, command, wrt="0")
    same(
        lambda: gradreg.penalty(policy, x, action, DataGrad(1.0), loss_fn=negative_log_probability),
        wanted,
        body.trainable_variables,
        mode,
    )


# --- codes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", ["code", "tapped"])
@pytest.mark.parametrize("mode", BOTH)
def test_a_contractive_autoencoder_in_one_pass(mode: str, place: str) -> None:
    encoder = keras.Sequential([layers.Input((6,), dtype="float64"), dense(4, "tanh"), dense(2, "tanh")], name="code")
    decoder = keras.Sequential([layers.Input((2,), dtype="float64"), dense(4, "tanh"), dense(6)])
    x, passes = random(BATCH, 6), []

    def model(x: tf.Tensor) -> tf.Tensor:
        passes.append(1)
        return decoder(gradreg.tap("tapped", encoder(x)))

    def error(outputs: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum((outputs - x) ** 2, 1)

    def wanted() -> tf.Tensor:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            code = encoder(x)
        penalty = tf.reduce_mean(squared_norms(tape, code, [x]))
        return tf.reduce_mean(error(decoder(code), x)) + 0.1 * penalty

    reg = FrobReg(0.1, of=place)
    same(
        lambda: gradreg.loss(model, x, x, reg, loss_fn=error)[0],
        wanted,
        [*encoder.trainable_variables, *decoder.trainable_variables],
        mode,
    )
    assert len(passes) == 1


# --- critics ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", [*BOTH, "xla"])
def test_a_conditional_critic(mode: str) -> None:
    image, condition, head = dense(5), layers.Embedding(3, 5, **DOUBLE), dense(1)
    x = random(BATCH, 6)

    def critic(x: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        return head(tf.tanh(image(x)) * condition(label))

    def wanted() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = critic(x, LABELS)
        norms = tf.sqrt(tf.reduce_sum(tape.gradient(z, x) ** 2, 1))
        return 10.0 * tf.reduce_mean((norms - 1) ** 2)

    critic(x, LABELS)
    inputs = gradreg.Inputs(x, tf.constant(LABELS))
    weights = [variable for layer in (image, condition, head) for variable in layer.trainable_variables]
    same(lambda: gradreg.penalty(critic, inputs, None, GradientPenalty(10.0)), wanted, weights, mode)


@pytest.mark.parametrize("mode", BOTH)
def test_r1_on_patches_is_the_gradient_of_their_sum(mode: str) -> None:
    first, last = layers.Conv2D(4, 3, 2, "same", **DOUBLE), layers.Conv2D(1, 3, 1, "same", **DOUBLE)
    critic = keras.Sequential([layers.Input((6, 6, 2), dtype="float64"), first, layers.LeakyReLU(0.2, **DOUBLE), last])
    x = random(BATCH, 6, 6, 2)

    def wanted() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = critic(x)
        return 10.0 / 2 * tf.reduce_mean(tf.reduce_sum(tape.gradient(z, x) ** 2, (1, 2, 3)))

    reg = R1(10.0, projection=ones())
    same(lambda: gradreg.penalty(critic, x, None, reg), wanted, critic.trainable_variables, mode)


# --- graphs and recurrences ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", BOTH)
def test_a_graph_network_with_its_own_edges(mode: str) -> None:
    """A batch of graphs over the same nodes: one sample is one graph, and graphs do not mix."""
    first, second, nodes = dense(4), dense(2), random(BATCH, 5, 3)
    adjacency = tf.cast(random(BATCH, 5, 5, seed=1) > 0, tf.float64)

    def model(nodes: tf.Tensor, adjacency: tf.Tensor) -> tf.Tensor:
        hidden = tf.tanh(adjacency @ first(nodes))
        return tf.reduce_mean(adjacency @ second(hidden), 1)

    def wanted() -> tf.Tensor:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(nodes)
            z = model(nodes, adjacency)
        return tf.reduce_mean(squared_norms(tape, z, [nodes]))

    model(nodes, adjacency)
    x = gradreg.Inputs(nodes, adjacency, wrt="0")
    weights = [*first.trainable_variables, *second.trainable_variables]
    same(lambda: gradreg.penalty(model, x, None, FrobReg(1.0)), wanted, weights, mode)


RECURRENT: list[Any] = [
    FrobReg(1.0, at="states[0]"),
    FrobReg(1.0),
    FrobReg(1.0, of="states[0]"),
    FrobReg(1.0, of="states[2]"),
]
"""Tracing the second derivative of a loop takes seconds per row of the Jacobian, so one of them is traced."""


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("mode", "reg"), [("graph", RECURRENT[0]), *(("eager", reg) for reg in RECURRENT)], ids=lambda value: str(value)
)
def test_a_recurrent_network(mode: str, reg: Any) -> None:
    lstm = layers.LSTM(2, return_sequences=True, return_state=True, name="states", use_cudnn=False, **DOUBLE)
    head, x = dense(2), random(BATCH, 2, 2)

    def model(x: tf.Tensor) -> tf.Tensor:
        return head(lstm(x)[0][:, -1])

    def wanted() -> tf.Tensor:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            states, _, cell = lstm(x)
            outputs = head(states[:, -1])
        of = {None: outputs, "states[0]": states, "states[2]": cell}[reg.of]
        return tf.reduce_mean(squared_norms(tape, of, [states if reg.at else x]))

    model(x)
    weights = [*lstm.trainable_variables, *head.trainable_variables]
    same(lambda: gradreg.penalty(model, x, None, reg), wanted, weights, mode)


# --- tokens ----------------------------------------------------------------------------------------------------------
ATTENDED = tf.constant([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])


class Transformer(keras.Model):
    """One block of a transformer over tokens, with frozen embeddings."""

    def __init__(self) -> None:
        super().__init__(**DOUBLE)
        self.embedding = layers.Embedding(9, 4, name="embedding", trainable=False, **DOUBLE)
        self.attention = layers.MultiHeadAttention(2, 3, name="attention", **DOUBLE)
        self.norm = layers.LayerNormalization(epsilon=1e-3, **DOUBLE)
        self.inner, self.outer, self.head = dense(5, "gelu"), dense(4), dense(3)

    def call(self, tokens: tf.Tensor, attended: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        return {"logits": self.behind(self.embedding(tokens), attended, self.norm)}

    def behind(self, hidden: tf.Tensor, mask: tf.Tensor | None, norm: Any) -> tf.Tensor:
        attended = self.attention(hidden, hidden, attention_mask=None if mask is None else mask[:, None] > 0)
        hidden = norm(hidden + attended)
        return self.head((hidden + self.outer(self.inner(hidden)))[:, 0])

    def normalised(self, h: tf.Tensor) -> tf.Tensor:
        """The result of LayerNormalization, by arithmetic."""
        mean = tf.reduce_mean(h, -1, keepdims=True)
        variance = tf.reduce_mean((h - mean) ** 2, -1, keepdims=True)
        return (h - mean) / tf.sqrt(variance + 1e-3) * self.norm.gamma + self.norm.beta


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    keras.utils.set_random_seed(0)
    model = Transformer()
    model(TOKENS, attended=ATTENDED)
    model.norm.gamma.assign(np.linspace(0.5, 1.5, 4))
    return model


def by_hand(model: Transformer) -> tf.Tensor:
    """||J_i||_F^2 of the logits with respect to the embeddings, (B,)."""
    with tf.GradientTape(persistent=True) as tape:
        embedded = model.embedding(TOKENS)
        tape.watch(embedded)
        logits = model.behind(embedded, ATTENDED, model.normalised)
    return squared_norms(tape, logits, [embedded])


@pytest.mark.parametrize("mode", BOTH)
def test_a_transformer_with_a_mask_and_frozen_embeddings(mode: str, transformer: Transformer) -> None:
    x = gradreg.Inputs(TOKENS, attended=ATTENDED)
    same(
        lambda: gradreg.penalty(transformer, x, None, FrobReg(1.0, at="embedding")),
        lambda: tf.reduce_mean(by_hand(transformer)),
        transformer.trainable_variables,
        mode,
    )


@pytest.mark.sample(2)
@pytest.mark.parametrize("masked_by", ["arguments", "closure"])
@pytest.mark.parametrize("mode", BOTH)
def test_a_transformer_on_a_part_of_the_batch(mode: str, masked_by: str, transformer: Transformer) -> None:
    """The part is cut with its mask; a mask in a closure cannot be cut, so the model sees the whole batch."""
    reg: Regularizer = SpectReg(1.0, at="embedding", fraction=0.5)
    if masked_by == "arguments":
        x: Any = gradreg.Inputs(TOKENS, attended=ATTENDED)
        model: Any = transformer
    else:
        x, model = TOKENS, lambda tokens: transformer(tokens, attended=ATTENDED[: len(tokens)])
    _, parts = MODES[mode](lambda: gradreg.loss(model, x, LABELS, reg)[:2])()
    logits = transformer(TOKENS, attended=ATTENDED)["logits"]
    losses = keras.losses.sparse_categorical_crossentropy(LABELS, logits, from_logits=True)
    assert float(parts.loss) == pytest.approx(float(tf.reduce_mean(losses)), rel=RIGHT)
    alone = [
        gradreg.penalty(
            transformer,
            gradreg.Inputs(TOKENS[i : i + 1], attended=ATTENDED[i : i + 1]),
            None,
            SpectReg(1.0, at="embedding"),
            sample_ids=[i],
        )
        for i in range(BATCH)
    ]
    pairs = [float(alone[i] + alone[j]) / 2 for i in range(BATCH) for j in range(i)]
    penalty = float(parts.penalty[0])
    assert min(abs(pair - penalty) for pair in pairs) <= RIGHT * penalty


@pytest.mark.parametrize("mode", BOTH)
def test_positions_that_are_ignored(mode: str) -> None:
    """Labels of a language model, with padding that counts nowhere."""
    body = keras.Sequential([layers.Input((5, 3), dtype="float64"), dense(4, "tanh"), dense(3)])
    x, labels = random(BATCH, 5, 3), np.where(ATTENDED > 0, TOKENS % 3, -100)

    def wanted() -> tf.Tensor:
        logits = body(x)
        losses = keras.losses.sparse_categorical_crossentropy(np.maximum(labels, 0), logits, from_logits=True)
        counted = tf.cast(labels >= 0, tf.float64)
        return tf.reduce_sum(losses * counted) / tf.reduce_sum(counted)

    ours = lambda: gradreg.loss(body, x, labels, None, ignore_index=-100, class_axis=-1)[0]  # noqa: E731
    same(ours, wanted, body.trainable_variables, mode)
