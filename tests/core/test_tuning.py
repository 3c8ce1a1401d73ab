"""The search for the weight, on curves of known shape."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradreg_core
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.presets import DataGrad, SpectReg, WeightDecay
from gradreg_core.tuning.search import search

BEST = 0.03


def curve(weight: float, best: float = BEST, width: float = 1.5, gain: float = 0.05) -> float:
    """An accuracy that rises by `gain` at the best weight, and falls below the start far beyond it."""
    if weight == 0:
        return 0.9
    distance = math.log10(weight / best)
    return 0.9 + gain * math.exp(-((distance / width) ** 2)) - (0.02 * distance**2 if distance > 0 else 0.0)


def weight_of(reg: Any) -> float:
    return 0.0 if reg is None else float(reg.terms[0].weight)


def quiet(fit: Any, reg: Any, **options: Any) -> Any:
    return search(fit, reg, progress=False, **options)


@given(st.floats(-4, 4), st.floats(1.0, 2.5))
def test_eight_trainings_find_the_weight_from_far_away(decades: float, width: float) -> None:
    """Within half a decade, where the curve is flat to a tenth of the gain; four decades away is what eight reach."""
    calls = []

    def fit(reg: Any, seed: int) -> float:
        calls.append(weight_of(reg))
        return curve(weight_of(reg), BEST, width)

    start = BEST * 10**decades
    result = quiet(fit, SpectReg(start))
    assert len(calls) <= 8
    assert len(set(calls)) == len(calls)
    assert calls[:2] == [0.0, start]
    if abs(decades) <= 3:
        assert abs(math.log10(result.best.weight / BEST)) <= 0.5 + 2e-3  # weights are rounded to three digits
        assert not result.at_edge or abs(decades) > 2.4


def test_the_range_widens_while_the_best_is_at_its_edge() -> None:
    tried: list[float] = []

    def fit(reg: Any, seed: int) -> float:
        tried.append(weight_of(reg))
        return curve(weight_of(reg), best=10.0)

    quiet(fit, SpectReg(0.01))
    assert tried[:6] == pytest.approx([0.0, 0.01, 0.1, 1.0, 10.0, 100.0])


def test_norms_stop_the_search_where_nothing_is_left_to_penalise() -> None:
    tried: list[float] = []

    def fit(reg: Any, seed: int) -> tuple[float, float]:
        weight = weight_of(reg)
        tried.append(weight)
        return 0.9 + 1e-6 * weight, 1.0 if weight == 0 else min(1.0, 0.5 / weight)

    quiet(fit, SpectReg(1.0))
    assert max(tried) == 10.0  # its norm is a twentieth of the unregularized one


def test_every_seed_counts_and_their_spread_is_the_standard_error() -> None:
    seen: set[tuple[float, int]] = set()

    def fit(reg: Any, seed: int) -> float:
        seen.add((weight_of(reg), seed))
        return curve(weight_of(reg)) + 0.01 * seed

    result = quiet(fit, SpectReg(BEST), seeds=(0, 1, 2), trainings=14)
    assert len(seen) == 12  # four weights; a fifth would need 15
    assert result.standard_error(result.best) == pytest.approx(0.01 / math.sqrt(3))
    assert result.best.score == pytest.approx(0.96)
    assert result.is_gain_clear
    assert result.gain == pytest.approx(0.05)


def test_without_a_gain_none_is_the_answer() -> None:
    result = quiet(lambda reg, seed: 0.9 - weight_of(reg), SpectReg(0.01), validation_size=1000)
    assert result.regularizer is None
    assert "Training without a regularizer was best" in str(result)


def test_a_gain_within_the_standard_error_is_called_so() -> None:
    result = quiet(lambda reg, seed: curve(weight_of(reg), gain=0.004), SpectReg(BEST), validation_size=1500)
    assert result.is_gain_clear is False
    assert result.standard_error(result.none) == pytest.approx(math.sqrt(0.9 * 0.1 / 1500))
    assert "within the standard error" in str(result)
    assert "How sure that is cannot be told" in str(quiet(lambda reg, seed: curve(weight_of(reg)), SpectReg(BEST)))


def test_a_run_that_diverged_is_the_worst() -> None:
    result = quiet(lambda reg, seed: math.nan if weight_of(reg) > 0.5 else curve(weight_of(reg)), SpectReg(1.0))
    assert result.best.weight == pytest.approx(BEST, rel=3)
    assert any(candidate.score == -math.inf for candidate in result.candidates)


def test_all_terms_of_a_sum_are_scaled_alike() -> None:
    regs: list[Any] = []

    def fit(reg: Any, seed: int) -> float:
        regs.append(reg)
        return curve(weight_of(reg))

    quiet(fit, DataGrad(1.0) + WeightDecay(0.5), trainings=4)
    for reg in regs[1:]:
        assert reg.terms[1].weight == pytest.approx(reg.terms[0].weight / 2)


@pytest.mark.parametrize(
    "value", [0.9, np.float32(0.9), np.array(0.9), torch.tensor(0.9), (0.9, 1.0), (torch.tensor(0.9), None)]
)
def test_scores_of_any_type(value: Any) -> None:
    assert quiet(lambda reg, seed: value, SpectReg(1.0), trainings=2).best.score == pytest.approx(0.9)


def test_the_table_and_the_picture(tmp_path: Any) -> None:
    def fit(reg: Any, seed: int) -> tuple[float, float]:
        return curve(weight_of(reg)), 1 / (1 + weight_of(reg))

    result = quiet(fit, SpectReg(0.01), validation_size=500)
    lines = str(result).splitlines()
    assert lines[0].split() == ["weight", "trainings", "score", "std.", "error", "norm"]
    assert lines[1].split()[0] == "none"
    assert len(lines) == len(result.candidates) + 2
    result.plot(tmp_path / "search.svg")
    assert (tmp_path / "search.svg").stat().st_size > 1000
    assert gradreg_core.search is search


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((0.5, SpectReg(1.0)), {}, InputTypeError, "fit must be a function of"),
        ((lambda reg, seed: 1.0, None), {}, InputTypeError, "reg must be a regularizer"),
        ((lambda reg, seed: 1.0, SpectReg(0.0)), {}, InputError, "must be a number above 0"),
        ((lambda reg, seed: 1.0, SpectReg(lambda step: 1.0)), {}, InputError, "must be a number above 0"),
        ((lambda reg, seed: 1.0, SpectReg(1.0)), {"seeds": ()}, InputError, "seeds must be one or more"),
        ((lambda reg, seed: 1.0, SpectReg(1.0)), {"trainings": 1}, InputError, "trainings must be an integer of"),
        ((lambda reg, seed: 1.0, SpectReg(1.0)), {"trainings": None}, InputTypeError, "trainings must be"),
        ((lambda reg, seed: "good", SpectReg(1.0)), {}, InputTypeError, "fit must return a score"),
        ((lambda reg, seed: None, SpectReg(1.0)), {}, InputTypeError, "fit must return a score"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(arguments: Any, options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"search: .*{message}"):
        search(*arguments, progress=False, **options)
