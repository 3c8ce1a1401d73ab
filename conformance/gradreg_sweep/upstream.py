"""Where findings are reported: issues of the frameworks, found by searching."""

__all__ = ["UPSTREAM", "issue"]

UPSTREAM = {
    "torch.linalg.solve": "pytorch/pytorch#196695",
    "torch.linalg.solve_ex": "pytorch/pytorch#196695",
    "torch.linalg.tensorsolve": "pytorch/pytorch#196695",
    "torch.linalg.det": "pytorch/pytorch#196696",
    "torch.linalg.det, singular": "pytorch/pytorch#104675",
    "torch.linalg.slogdet": "pytorch/pytorch#196697",
    "torch.logdet": "pytorch/pytorch#196697",
    "torch.linalg.householder_product": "pytorch/pytorch#196698",
    "torch.cumprod": "pytorch/pytorch#196701",
    "torch.nn.LayerNorm": "pytorch/pytorch#198017",
    "torch.nn.functional.layer_norm": "pytorch/pytorch#198017",
    "torch.nn.BatchNorm1d": "pytorch/pytorch#198017",
    "torch.nn.BatchNorm2d": "pytorch/pytorch#198017",
    "torch.nn.functional.batch_norm": "pytorch/pytorch#198017",
    "torch.cholesky_solve": "pytorch/pytorch#198017",
    "torch.cholesky_inverse": "pytorch/pytorch#198017",
    "tf.reduce_prod": "tensorflow/tensorflow#61117",
    "tf.math.cumprod": "tensorflow/tensorflow#119430",
    "tf.image.resize, bilinear": "tensorflow/tensorflow#38643",
    "tf.nn.local_response_normalization": "tensorflow/tensorflow#22825",
    "tf.image.resize, nearest": "tensorflow/tensorflow#22208",
    "tf.image.resize, bicubic": "tensorflow/tensorflow#7641",
}
"""Operation -> owner/repository#number. An operation that is not here is not known to be reported."""


def issue(operation: str) -> str:
    """A link in Markdown to the issue about an operation; "not reported" where none is known."""
    known = UPSTREAM.get(operation)
    if known is None:
        return "not reported"
    repository, _, number = known.partition("#")
    return f"[{known}](https://github.com/{repository}/issues/{number})"
