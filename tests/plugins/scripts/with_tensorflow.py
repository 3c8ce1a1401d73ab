import tensorflow as tf
from typing_extensions import reveal_type

import gradreg_tensorflow as gradreg
from gradreg_core.results import Parts
from gradreg_keras import RegularizedModel

model = tf.keras.Sequential([tf.keras.layers.Input((8,)), tf.keras.layers.Dense(3)])
optimizer = tf.keras.optimizers.Adam()
reg = gradreg.SpectReg(0.01, seed=0) + gradreg.WeightDecay(1e-4)
x, y = tf.ones((4, 8)), tf.range(4) % 3


def step(number: int) -> Parts:
    with tf.GradientTape() as tape:
        total, parts = gradreg.loss(model, x, y, reg, step=number)
    gradients = tape.gradient(total, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return parts


reveal_type(gradreg.SpectReg(0.01))  # note: Revealed type is "gradreg_core.presets.SpectReg"
reveal_type(step(0).penalty)  # note: Revealed type is "tuple[Any, ...]"
reveal_type(gradreg.measure(model, x).spectral)  # note: Revealed type is "Any"
gradreg.loss(model, x, y, reg, stepp=1)  # error: Unexpected keyword argument "stepp"; did you mean "step"?
gradreg.SpectReg(0.01, projection=2)  # error: "projection" for "SpectReg"; did you mean "projections"?
gradreg.penalty(model, x, y, 0.01)  # error: Argument 4 has incompatible type "float"; expected "Regularizer"
RegularizedModel(model, reg, batchnorm="allow")  # error: argument "batchnorm" for "RegularizedModel"
