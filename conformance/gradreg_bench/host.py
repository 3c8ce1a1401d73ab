"""The host's share of a call: the cost of `loss` beyond the same computation by hand, with negligible arithmetic.

The network is so small that its arithmetic takes no time, and everything runs eagerly. Both are measured without a
backward pass, which is the same for both.
"""

import gc
import sys
import time
from collections.abc import Callable
from typing import Any

from gradreg_bench.steps import Steps
from gradreg_bench.task import HostRow
from gradreg_core.portable import networks as nets
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_core.spec import Regularizer

__all__ = ["BATCH", "CASES", "TINY", "HostRow", "measure_host", "python_calls"]

HOST = "host"
"""The name of the measurement in place of a network."""
TINY = nets.Network((8,), (nets.Dense(8), nets.Activation("relu"), nets.Dense(4)))
BATCH = 4
NOT_DUE = "not due"
CASES: dict[str, Regularizer | None] = {
    "no regularizer": None,
    NOT_DUE: SpectReg(0.01, every=2**20),
    "SpectReg": SpectReg(0.01),
    "DataGrad": DataGrad(1.0),
}
"""The cases by name; the measured steps start at 1, so a term with `every=` is not due."""
_CALLS, _WARM_UP, _COUNTED = 20, 20, 32


def measure_host(steps: Steps, rounds: int) -> tuple[HostRow, ...]:
    """Measure every case on the model of `steps`, which must be the network TINY, in turn.

    Args:
        steps: the steps of a framework, in a mode that runs eagerly.
        rounds: the number of rounds, each of 20 calls; the least time counts, because other load only adds to it.
    """
    return tuple(_row(steps, name, reg, rounds) for name, reg in CASES.items())


def _row(steps: Steps, name: str, reg: Regularizer | None, rounds: int) -> HostRow:
    number = iter(range(1, sys.maxsize))

    def own() -> Any:
        return steps.calls.loss(steps.eager_model, steps.x, steps.y, reg, step=next(number), batch_norm="warn")

    by_hand = steps.by_hand(None if name == NOT_DUE else reg)
    for _ in range(_WARM_UP):
        own()
        by_hand()
    least = {own: float("inf"), by_hand: float("inf")}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for run in least:
                start = time.perf_counter()
                for _ in range(_CALLS):
                    run()
                least[run] = min(least[run], (time.perf_counter() - start) / _CALLS)
    finally:
        gc.enable()
    return HostRow(
        name,
        1e6 * least[own],
        1e6 * least[by_hand],
        python_calls(own, _COUNTED),
        python_calls(by_hand, _COUNTED),
        steps.operations(own),
        steps.operations(by_hand),
    )


def python_calls(run: Callable[[], Any], times: int = 1) -> float:
    """The number of Python function calls in one run, the mean over several; C functions do not count.

    The garbage collector is off: libraries register functions that it calls whenever it runs.
    """
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    gc.disable()
    sys.setprofile(profile)
    try:
        for _ in range(times):
            run()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count / times - 1  # excluding `run` itself
