from typing_extensions import reveal_type

from gradreg_core import SpectReg, check, loss, measure, penalty

x = y = [0.0]
total, parts = loss(sum, x, y, SpectReg(0.1), step=1, sample_weight=y)
reveal_type(parts.penalty)  # note: Revealed type is "tuple[Any, ...]"
reveal_type(check(sum, x, y, SpectReg(0.1)).ok)  # note: Revealed type is "bool"
penalty(sum, x, y, SpectReg(0.1), sample_wieght=y)  # error: "sample_wieght"; did you mean "sample_weight"?
measure(sum, x, projections="two")  # error: "projections" has incompatible type "str"; expected "int | None"
