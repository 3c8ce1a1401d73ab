import jax
import jax.numpy as jnp
from typing_extensions import reveal_type

import gradreg_jax as gradreg
from gradreg_core.results import Parts

reg = gradreg.SpectReg(0.01, seed=0) + gradreg.WeightDecay(1e-4)
params = {"w": jnp.ones((8, 3))}
x, y = jnp.ones((4, 8)), jnp.arange(4) % 3


def objective(params: dict[str, jax.Array], step: int) -> tuple[jax.Array, Parts]:
    return gradreg.loss(lambda x: jnp.tanh(x @ params["w"]), x, y, reg, step=step, params=params)


for step in range(3):
    (total, parts), slopes = jax.value_and_grad(objective, has_aux=True)(params, step)
    params = jax.tree.map(lambda weight, slope: weight - 0.1 * slope, params, slopes)
reveal_type(gradreg.SpectReg(0.01))  # note: Revealed type is "gradreg_core.presets.SpectReg"
reveal_type(objective(params, 0)[1].penalty)  # note: Revealed type is "tuple[Any, ...]"
reveal_type(gradreg.measure(jnp.tanh, x).spectral)  # note: Revealed type is "Any"
gradreg.loss(jnp.tanh, x, y, reg, stepp=1)  # error: Unexpected keyword argument "stepp"; did you mean "step"?
gradreg.SpectReg(0.01, projection=2)  # error: "projection" for "SpectReg"; did you mean "projections"?
gradreg.penalty(jnp.tanh, x, y, 0.01)  # error: Argument 4 has incompatible type "float"; expected "Regularizer"
