"""Outputs and labels in one layout, whatever axes they have."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.labels import Target, prepare_target
from gradreg_core.layout import Layout, is_floating, is_half, is_integer, one_hot, require_integer_scalar, widened
from gradreg_torch.backend import TorchBackend
from minimal_backend import MINIMAL

OPS = TorchBackend()


def target(y: Any, shape: tuple[int, ...], class_axis: int | None = None, ops: Any = OPS) -> Target:
    layout = Layout.of("test", shape, shape[0], class_axis)
    return prepare_target(ops, "test", y, layout, torch.zeros(layout.canonical, dtype=torch.float64), "the loss")


# --- dtypes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dtype", "integer", "floating", "half"),
    [
        ("int32", True, False, False),
        ("uint8", True, False, False),
        ("bool", True, False, False),
        ("float32", False, True, False),
        ("float64", False, True, False),
        ("float16", False, True, True),
        ("bfloat16", False, True, True),
        ("complex64", False, False, False),
        ("float8_e5m2", False, False, False),
    ],
)
def test_kinds_of_dtypes(dtype: str, integer: bool, floating: bool, half: bool) -> None:
    assert (is_integer(dtype), is_floating(dtype), is_half(dtype)) == (integer, floating, half)
    if not integer:
        array = torch.ones(2, dtype=getattr(torch, dtype))
        assert widened(OPS, array).dtype == (torch.float32 if half else array.dtype)


def test_integer_scalars() -> None:
    for value in (torch.tensor(3), torch.tensor(3, dtype=torch.uint8)):
        require_integer_scalar(OPS, "test", "step", value)
    for wrong, came in (
        (2.5, "got 2.5"),
        (None, "got None"),
        (torch.tensor(2.5), r"got float32 of shape \(\)"),
        (torch.tensor([1]), r"got int64 of shape \(1,\)"),
    ):
        with pytest.raises(InputTypeError, match=rf"test: step must be an integer.*{came}"):
            require_integer_scalar(OPS, "test", "step", wrong)


# --- outputs ---------------------------------------------------------------------------------------------------------
@st.composite
def axes(draw: Any) -> tuple[tuple[int, ...], int | None]:
    """The shape of outputs, and a class axis that they have."""
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    choices = [axis for axis in range(-len(shape) + 1, len(shape)) if axis != 0]
    return shape, draw(st.sampled_from([None, *choices, *([-1, 1] if len(shape) == 1 else [])]))


@given(axes())
def test_the_way_into_the_layout_and_back_is_the_identity(case: tuple[tuple[int, ...], int | None]) -> None:
    shape, class_axis = case
    layout = Layout.of("test", shape, shape[0], class_axis)
    outputs = torch.arange(math.prod(shape)).reshape(shape)
    canonical = layout.to_canonical(OPS, outputs)
    assert tuple(canonical.shape) == layout.canonical
    assert torch.equal(layout.from_canonical(OPS, canonical), outputs)
    batch, positions, classes = layout.canonical
    if len(shape) > 2 and class_axis is not None:
        assert classes == shape[class_axis]
        assert torch.equal(canonical, outputs.movedim(class_axis, -1).reshape(batch, positions, classes))


@pytest.mark.parametrize(
    ("shape", "class_axis", "canonical"),
    [
        ((5,), None, (5, 1, 1)),
        ((5,), -1, (5, 1, 1)),
        ((5, 1), None, (5, 1, 1)),
        ((5, 3), None, (5, 1, 3)),
        ((5, 3, 4, 2), None, (5, 1, 24)),
        ((5, 3, 4, 2), 1, (5, 8, 3)),
        ((5, 3, 4, 2), -1, (5, 12, 2)),
    ],
)
def test_canonical_shapes(shape: tuple[int, ...], class_axis: int | None, canonical: tuple[int, int, int]) -> None:
    assert Layout.of("test", shape, 5, class_axis).canonical == canonical


@pytest.mark.parametrize(
    ("shape", "class_axis", "message"),
    [
        ((), None, r"test: expected outputs of shape \(5, \.\.\.\).*got \(\)"),
        ((4, 3), None, r"one row for each of the 5 samples of x, got \(4, 3\)"),
        ((5, 0), None, r"the outputs are empty, shape \(5, 0\)"),
        ((5, 3), 0, r"class_axis=0 must name an axis after the first of outputs of shape \(5, 3\)"),
        ((5, 3), 2, "class_axis=2 must name an axis"),
        ((5, 3), -2, "class_axis=-2 must name an axis"),
        ((5,), 2, "class_axis=2 must name an axis"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(shape: tuple[int, ...], class_axis: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Layout.of("test", shape, 5, class_axis)


def test_classes_are_asked_for_where_nobody_said_which_axis_holds_them() -> None:
    Layout.of("test", (5, 3), 5, None).require_classes("test", "it")
    with pytest.raises(
        InputError, match=r"test: it needs to know which axis of the outputs \(5, 3, 4\) holds the classes"
    ):
        Layout.of("test", (5, 3, 4), 5, None).require_classes("test", "it")


# --- labels ----------------------------------------------------------------------------------------------------------
def test_one_hot_of_any_shape() -> None:
    indices = torch.tensor([[0, 2], [1, 3]])
    wanted = torch.tensor([[[1.0, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 0]]])  # 3 is out of range: no class
    assert torch.equal(one_hot(OPS, indices, 3, "float32"), wanted)


@pytest.mark.parametrize("y", [[0, 2], np.array([0, 2], np.uint8), torch.tensor([0, 2], dtype=torch.int32)])
def test_class_labels_of_any_integer_type(y: Any) -> None:
    labels = target(y, (2, 3))
    assert labels.hard
    assert labels.distribution.tolist() == [[[1, 0, 0]], [[0, 0, 1]]]
    assert torch.equal(labels.basis("it"), labels.distribution)
    assert labels.distribution.dtype == torch.float64
    assert labels.distribution is labels.distribution  # made once


def test_labels_of_positions_and_the_class_axis_of_pytorch() -> None:
    y = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    wanted = torch.nn.functional.one_hot(y, 3).double()
    for shape, class_axis in (((2, 4, 3), -1), ((2, 3, 4), 1)):
        assert torch.equal(target(y, shape, class_axis).distribution, wanted)
    assert torch.equal(target(wanted, (2, 4, 3), -1).distribution, wanted)
    assert torch.equal(target(wanted.movedim(-1, 1), (2, 3, 4), 1).distribution, wanted)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
@pytest.mark.parametrize("given_axis", [False, True])
@pytest.mark.parametrize("dtype", [torch.long, torch.float32, torch.bool])
def test_a_single_logit_takes_labels_with_or_without_its_axis(shape: Any, given_axis: bool, dtype: torch.dtype) -> None:
    y = torch.tensor([0, 1, 1]).to(dtype)
    labels = target(y[:, None] if given_axis and len(shape) == 2 else y, shape)
    assert labels.distribution.tolist() == [[[0]], [[1]], [[1]]]
    if dtype != torch.float32:
        assert labels.basis("it").tolist() == [[[1]]] * 3


@pytest.mark.parametrize(
    ("y", "shape", "message"),
    [
        (None, (2, 3), "test: the loss needs labels, but y is None; pass y"),
        ([0, 3], (2, 3), r"labels must lie in 0\.\.2 for 3 outputs, got values from 0 to 3"),
        (
            [-1, 0],
            (2, 3),
            r"labels must lie in 0\.\.2.*from -1 to 0.*leave padded or unlabelled positions out with ignore_index=-1",
        ),
        ([0, 2], (2,), r"labels must lie in 0\.\.1 for 1 outputs"),
        ([0, 1, 2], (2, 3), r"expected integer class labels of shape \(2,\) for outputs of shape \(2, 3\), got \(3,\)"),
        ([[0, 1]], (2, 3), r"expected integer class labels of shape \(2,\)"),
        ([0.0, 1.0], (2, 3), "expected soft labels.*Class labels must be of an integer type"),
        ([[0.5, 0.5]], (2, 3), r"expected soft labels of shape \(2, 3\)"),
        ([[0.5, 0.5, 0.5], [1.0, 0, 0]], (2, 3), r"soft labels must sum to 1 over the classes, got sums such as 1\.0"),
        ([[-0.5, 1.5, 0.0], [1.0, 0, 0]], (2, 3), r"soft labels must be probabilities, got values from -0\.5 to 1\.5"),
        ([1.5, 0.0], (2,), r"soft labels must be probabilities, got values from 0\.0 to 1\.5"),
        ([math.nan, 0.0], (2,), "soft labels must be probabilities, got values from nan"),
    ],
)
def test_labels_that_do_not_fit_are_refused(y: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        target(y, shape)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ("labels", "test: y must be an array of labels, got str"),
        ({"y": 0}, "test: y must be an array of labels, got dict"),
        (
            torch.zeros(2, dtype=torch.complex64),
            "labels must be integers or floating-point probabilities, got dtype complex64",
        ),
    ],
)
def test_things_that_are_not_labels_are_refused(y: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        target(y, (2, 3))


def test_a_basis_needs_class_labels() -> None:
    with pytest.raises(InputError, match=r"test: onehot\(\) needs integer class labels, got soft labels"):
        target([[1.0, 0, 0], [0, 1, 0]], (2, 3)).basis("onehot()")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("classes", [2, 128, 129, 300, 2**16])
def test_negative_labels_of_every_width_are_refused(dtype: torch.dtype, classes: int) -> None:
    """Without its sign a negative label is a large one, but of few bits a class may have that number."""
    assert target(torch.tensor([0, 1], dtype=dtype), (2, classes)).checked
    for wrong in (-1, -2, torch.iinfo(dtype).min):
        with pytest.raises(InputError, match=rf"labels must lie in 0\.\.{classes - 1}.* from {wrong} to 1"):
            target(torch.tensor([1, wrong], dtype=dtype), (2, classes))


def test_labels_out_of_range_are_nan_where_values_cannot_be_read() -> None:
    """Never a silently masked sample."""
    several = target(torch.tensor([0, 3, -1]), (3, 3), ops=MINIMAL)
    assert not several.checked
    assert several.distribution[0].tolist() == [[1, 0, 0]]
    assert bool(several.distribution[1:].isnan().all())
    single = target(torch.tensor([0.5, 1.5, -0.5, math.nan]), (4,), ops=MINIMAL)
    assert single.distribution[0].item() == 0.5
    assert bool(single.distribution[1:].isnan().all())


def test_an_empty_part_of_a_batch_has_no_values_to_check() -> None:
    layout = Layout((0, 3), -1)
    labels: Tensor = torch.zeros(0, dtype=torch.long)
    assert prepare_target(OPS, "test", labels, layout, torch.zeros(0, 1, 3), "it").checked
