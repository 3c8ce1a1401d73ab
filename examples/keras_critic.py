"""Generative adversarial networks on digits in Keras' train_step, on TensorFlow: critics penalised by WGAN-GP and R1.

It prints the distance of generated from real scans: between their means plus between their standard deviations.

Run: python examples/keras_critic.py
"""

import argparse
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits

import gradreg_tensorflow as gradreg

NOISE = 16


def mlp(inputs: int, outputs: int) -> keras.Model:
    """Two hidden layers."""
    hidden = [layer for _ in range(2) for layer in (layers.Dense(128), layers.LeakyReLU(0.2))]
    return keras.Sequential([layers.Input((inputs,)), *hidden, layers.Dense(outputs)])


class Gan(keras.Model):
    """A generator and a critic, trained in turn.

    Args:
        reg: ``GradientPenalty(10.0)``, for Wasserstein's loss, penalised between real and generated scans, or
            ``R1(1.0)``, for the logistic loss, penalised at real scans.
    """

    def __init__(self, reg: gradreg.Regularizer) -> None:
        super().__init__()
        self.generator, self.critic = mlp(NOISE, 64), mlp(64, 1)
        self.reg, self.wasserstein = reg, isinstance(reg, gradreg.GradientPenalty)
        self.critic_optimizer, self.generator_optimizer = (keras.optimizers.Adam(1e-3, 0.5, 0.9) for _ in range(2))
        self.critic_optimizer.build(self.critic.trainable_variables)
        self.generator_optimizer.build(self.generator.trainable_variables)
        self.penalty_metric = keras.metrics.Mean("penalty")

    def losses_of(self, real: Any, fake: Any) -> tuple[Any, Any]:
        """The losses (of the critic, of the generator) from scores."""
        if self.wasserstein:
            return tf.reduce_mean(fake) - tf.reduce_mean(real), -tf.reduce_mean(fake)
        critic = tf.reduce_mean(tf.nn.softplus(fake)) + tf.reduce_mean(tf.nn.softplus(-real))
        return critic, tf.reduce_mean(tf.nn.softplus(-fake))

    def train_step(self, real: Any) -> dict[str, Any]:
        """Do one step of the critic and one of the generator."""
        step, size = self.critic_optimizer.iterations, real.shape[0]
        fake = self.generator(tf.random.normal((size, NOISE)))
        share = tf.random.uniform((size, 1))
        x = share * real + (1 - share) * fake if self.wasserstein else real
        with tf.GradientTape() as tape:
            penalty = gradreg.penalty(self.critic, x, None, self.reg, step=step)
            loss = self.losses_of(self.critic(real), self.critic(fake))[0] + penalty
        weights = self.critic.trainable_variables
        self.critic_optimizer.apply(tape.gradient(loss, weights), weights)

        noise, weights = tf.random.normal((size, NOISE)), self.generator.trainable_variables
        with tf.GradientTape() as tape:
            loss = self.losses_of(self.critic(real), self.critic(self.generator(noise)))[1]
        self.generator_optimizer.apply(tape.gradient(loss, weights), weights)
        self.penalty_metric.update_state(penalty)
        return {"penalty": self.penalty_metric.result()}


def main(epochs: int, seed: int) -> dict[str, float]:
    """The distance per method, and before training ("untrained")."""
    scans = load_digits(return_X_y=True)[0].astype(np.float32) / 8 - 1
    batches = tf.data.Dataset.from_tensor_slices(scans).shuffle(2000, seed=seed).batch(64, drop_remainder=True)

    def distance(gan: Gan) -> float:
        made = gan.generator.predict(np.random.default_rng(0).standard_normal((500, NOISE)), verbose=0)
        return float(sum(np.linalg.norm(moment(made, 0) - moment(scans, 0)) for moment in (np.mean, np.std)))

    results = {}
    for name, reg in {"WGAN-GP": gradreg.GradientPenalty(10.0), "R1": gradreg.R1(1.0)}.items():
        keras.utils.set_random_seed(seed)
        gan = Gan(reg)
        results.setdefault("untrained", distance(gan))
        gan.compile(jit_compile=False)
        gan.fit(batches, epochs=epochs, shuffle=False, verbose=0)
        results[name] = distance(gan)
    for name, value in results.items():
        print(f"{name:10} {value:.2f}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
