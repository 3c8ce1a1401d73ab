"""The global numbers of the samples, which the draws depend on."""

import math

from gradreg_core.backend import Array
from gradreg_core.errors import InputError
from gradreg_core.forward import Call
from gradreg_core.inputs import Arguments
from gradreg_core.layout import is_integer
from gradreg_core.scalars import converted, require_narrow

__all__ = ["checked_ids", "nan_of_wide_ids"]


def checked_ids(call: Call, arguments: Arguments) -> Array:
    """The sample ids of the call as int32 (B,).

    Raises:
        InputError: they are not integers, not one per sample, or need more than 32 bits.
    """
    ops, batch, like = call.ops, arguments.batch, arguments.like
    ids = converted(ops, call.name, "sample_ids", call.sample_ids, like)
    if ops.shape(ids) != (batch,) or not is_integer(ops.dtype(ids)) or ops.dtype(ids) == "bool":
        raise InputError(
            f"{call.name}: sample_ids must be {batch} integers, one for each sample, got {ops.dtype(ids)} of shape "
            f"{ops.shape(ids)}."
        )
    values = ops.values_if_free(ids)
    if values is not None:
        require_narrow(call.name, "sample_ids", values)
    return ops.int32(ids, like)


def nan_of_wide_ids(call: Call, like: Array) -> Array | None:
    """0, or NaN where a sample id needs more than 32 bits and could not be read; None if all were read."""
    ops, ids = call.ops, call.sample_ids
    dtype = ops.dtype(ids) if ids is not None and ops.is_array(ids) else ""
    if dtype not in ("int64", "uint32", "uint64") or ops.values_if_free(ids) is not None:
        return None
    zero = ops.constant(0.0, "float32", like)
    if dtype == "uint32":
        fits = ops.int32(ids, like) >= 0  # an id that does not fit turns negative
    else:
        number = ops.astype(ids, "int64")  # PyTorch does not compare uint64
        fits = (number >= (0 if dtype == "uint64" else -(2**31))) & (number < 2**31)
    return ops.sum(ops.where(fits, zero, math.nan), 0)
