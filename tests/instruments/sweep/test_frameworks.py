"""Right operations come out right, known errors are detected, and the programs show them."""

import pytest

from instruments.sweep.findings import WRONG, disagreement, examined, run, small


@pytest.mark.slow
@pytest.mark.sample(3)
@pytest.mark.parametrize("operation", WRONG)
def test_tensorflow_is_wrong_and_the_program_shows_it(operation: str) -> None:
    finding = examined("tensorflow", operation)
    assert finding.kind == "wrong"
    assert finding.error > WRONG[operation]
    assert small(finding)
    assert disagreement(run(finding)) > 1e-5  # differences with a step of 1e-4 are right to 1e-6


@pytest.mark.parametrize("operation", ["tf.image.resize, bilinear", "tf.keras.layers.Resizing"])
def test_bilinear_resizing_is_silently_none(operation: str) -> None:
    finding = examined("tensorflow", operation)
    assert finding.kind == "None"
    assert small(finding)
    assert run(finding) == "None\n"


@pytest.mark.slow
def test_max_pooling_under_xla_is_wrong_where_values_are_close() -> None:
    finding = examined("tensorflow", "tf.nn.max_pool2d", "xla")
    assert finding.kind == "wrong"
    assert finding.configuration["near"] == "1 + 1e-3 * h"
    assert disagreement(run(finding)) > 1e-3
    assert examined("tensorflow", "tf.nn.max_pool2d").kind == "right"


def test_a_product_with_a_zero() -> None:
    finding = examined("tensorflow", "tf.reduce_prod")
    assert finding.kind == "wrong"
    assert finding.configuration["zero"] == 1
    assert small(finding)
    assert disagreement(run(finding)) > 1e-2


@pytest.mark.slow
def test_ctc_loss_is_not_a_number() -> None:
    finding = examined("tensorflow", "tf.nn.ctc_loss")
    assert finding.kind == "NaN"
    assert "nan" in run(finding)


@pytest.mark.parametrize(
    "operation",
    [
        "tf.nn.softsign",
        "tf.nn.local_response_normalization",
        "tf.nn.max_pool_with_argmax",
        "tf.nn.fractional_max_pool",
        "tf.nn.dilation2d",
        "tf.image.crop_and_resize",
        "tf.image.resize, bicubic",
        "tf.image.resize, nearest",
    ],
)
def test_tensorflow_has_no_second_derivative_and_says_so(operation: str) -> None:
    finding = examined("tensorflow", operation)
    assert finding.kind == "raises"
    assert finding.detail.startswith("LookupError")
    assert small(finding)
    with pytest.raises(LookupError, match="gradient registry has no entry"):
        run(finding)


@pytest.mark.slow
@pytest.mark.parametrize(
    "operation",
    [
        "tf.nn.softmax",
        "tf.nn.conv2d",
        "tf.nn.tanh",
        "tf.keras.layers.Dense",
        "tf.keras.layers.RMSNormalization",
        "tf.keras.layers.BatchNormalization, not training",
    ],
)
def test_tensorflow_is_right(operation: str) -> None:
    assert examined("tensorflow", operation).kind == "right"


@pytest.mark.parametrize("operation", ["torch.cdist", "torch.nn.functional.hardsigmoid"])
def test_pytorch_has_no_second_derivative_and_says_so(operation: str) -> None:
    finding = examined("torch", operation)
    assert finding.kind == "raises"
    with pytest.raises(RuntimeError, match="not implemented"):
        run(finding)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "operation"),
    [("torch", "torch.nn.LayerNorm"), ("torch", "torch.nn.MaxPool2d, overlapping"), ("jax", "jax.nn.softmax")],
)
def test_the_others_are_right(name: str, operation: str) -> None:
    assert examined(name, operation).kind == "right"
