"""The devices that PyTorch sees."""

import torch

__all__ = ["devices"]


def devices() -> list[str]:
    """The devices, such as ``["cpu", "cuda:0 NVIDIA H100"]``."""
    gpus = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]
