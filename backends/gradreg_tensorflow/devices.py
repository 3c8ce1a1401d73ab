"""The devices that TensorFlow sees."""

import tensorflow as tf

__all__ = ["devices"]


def devices() -> list[str]:
    """The devices, such as ``["CPU:0", "GPU:0"]``."""
    return [device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices()]
