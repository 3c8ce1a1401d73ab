"""A square with a planted fault: its first derivative is right, and its second may be cut off."""

from gradreg_sweep.operation import Operation

_CODE = {
    "tensorflow": """@tf.custom_gradient
def square(h):
    return h**2, lambda up: 2 * ({held}) * up""",
    "jax": """@jax.custom_vjp
def square(h):
    return h**2


square.defvjp(lambda h: (h**2, h), lambda h, up: (2 * ({held}) * up,))""",
    "torch": """class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        ctx.save_for_backward(h)
        return h**2

    @staticmethod
    def backward(ctx, up):
        (h,) = ctx.saved_tensors
        return 2 * ({held}) * up


square = Square.apply""",
}
_CUT = {"tensorflow": "tf.stop_gradient(h)", "jax": "jax.lax.stop_gradient(h)", "torch": "h.detach()"}
_BFLOAT16 = {"tensorflow": "tf.bfloat16", "jax": "jnp.bfloat16", "torch": "torch.bfloat16"}
FRAMEWORKS = tuple(_CODE)


def square(name: str, cut: bool | str, expression: str = "square(h)") -> Operation:
    """The square in a framework; `cut` says whether its second derivative is cut off: True, False or "bfloat16"."""
    held = _CUT[name] if cut else "h"
    if cut == "bfloat16":
        held = f"{held} if h.dtype == {_BFLOAT16[name]} else h"
    return Operation("square", expression, setup=_CODE[name].replace("{held}", held))
