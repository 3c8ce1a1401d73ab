"""The devices that JAX sees."""

import jax

__all__ = ["devices"]


def devices() -> list[str]:
    """The devices, such as ``["cuda:0 NVIDIA H100"]``; without a GPU ``["cpu:0 cpu"]``."""
    return [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()]
