"""The search for the weight, on curves of known shape."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradreg_core
from gradreg_core.errors import DataFileError, InputError, InputTypeError
from gradreg_core.presets import DataGrad, LayerwiseReg, SpectReg, WeightDecay
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


@pytest.mark.parametrize(("start", "tried"), [(1e-4, [1e-3, 1e-2, 1e-1]), (10.0, [1.0, 0.1])])
def test_norms_lead_to_the_range_where_scores_say_nothing(start: float, tried: list[float]) -> None:
    """Scores that are noise would lead anywhere; the norm leads to where 17 to 67 % of it are left."""
    calls: list[float] = []

    def fit(reg: Any, seed: int) -> tuple[float, float]:
        calls.append(weight_of(reg))
        noise = 0.001 * math.sin(1e6 * weight_of(reg))
        return 0.9 + noise, 1 / (1 + weight_of(reg) / 0.03)

    result = quiet(fit, SpectReg(start), validation_size=500)
    assert calls[: 2 + len(tried)] == pytest.approx([0.0, start, *tried])
    shares = [candidate.norm for candidate in result.candidates]
    assert any(share is not None and 0.17 <= share <= 0.67 for share in shares)


def test_a_norm_that_stays_does_not_lead_beyond_a_clear_loss() -> None:
    tried: list[float] = []

    def fit(reg: Any, seed: int) -> tuple[float, float]:
        tried.append(weight_of(reg))
        return curve(weight_of(reg)), 1.0 if weight_of(reg) == 0 else 0.8

    quiet(fit, SpectReg(0.01), validation_size=10_000)
    assert max(tried) <= 10.0


def test_the_search_ends_where_the_neighbours_cannot_be_told_apart() -> None:
    calls: list[float] = []

    def fit(reg: Any, seed: int) -> float:
        calls.append(weight_of(reg))
        return {0.0: 0.9, 0.01: 0.95, 0.1: 0.96, 1.0: 0.955, 10.0: 0.5}.get(weight_of(reg), 0.0)

    result = quiet(fit, SpectReg(0.01), validation_size=300)
    assert calls == [0.0, 0.01, 0.1, 1.0]
    assert [candidate.weight for candidate in result.equally_good] == [0.01, 0.1, 1.0]
    assert "Within one standard error of it: 0.01, 1." in str(result)


def test_the_error_of_the_gain_is_of_the_differences_seed_by_seed() -> None:
    """Folds differ in difficulty by far more than the gain varies over them."""
    gains = {0: 0.01, 1: 0.02, 2: 0.03}

    def fit(reg: Any, seed: int) -> float:
        return 0.5 + 0.1 * seed + (gains[seed] if reg is not None else 0.0)

    result = quiet(fit, SpectReg(1.0), seeds=(0, 1, 2), trainings=6)
    assert result.gain_error == pytest.approx(0.01 / math.sqrt(3))
    assert result.is_gain_clear
    assert "+0.02 \u00b1 0.0058 against none" in str(result)
    accuracies = quiet(fit, SpectReg(1.0), seeds=(0, 1, 2), trainings=6, validation_size=100)
    errors = [math.sqrt(p * (1 - p) / 100) for p in (0.6, 0.62)]
    assert accuracies.gain_error == pytest.approx(math.hypot(*errors))
    assert accuracies.is_gain_clear is False


def test_a_search_goes_on_from_its_journal(tmp_path: Any) -> None:
    calls: list[tuple[float, int]] = []

    def fit(reg: Any, seed: int) -> tuple[float, Any]:
        calls.append((weight_of(reg), seed))
        if len(calls) == 4:
            raise KeyboardInterrupt
        weight = weight_of(reg)
        return (math.nan if weight > 0.5 else curve(weight)), None

    path = tmp_path / "trainings.jsonl"
    with pytest.raises(KeyboardInterrupt):
        quiet(fit, DataGrad(0.1) + WeightDecay(0.01), seeds=(0, 1), trainings=12, journal=path)
    with path.open("a") as file:
        file.write('{"regularizer": null, "se')  # cut off
    result = quiet(fit, DataGrad(0.1) + WeightDecay(0.01), seeds=(0, 1), trainings=12, journal=path)
    assert calls[3] == calls[4]
    assert len(calls) == len({*calls}) + 1
    count = len(calls)
    path.write_text(path.read_text().removesuffix("\n"))  # whole, though its end is missing
    assert quiet(fit, DataGrad(0.1) + WeightDecay(0.01), seeds=(0, 1), trainings=12, journal=path) == result
    assert len(calls) == count
    assert any(candidate.score == -math.inf for candidate in result.candidates)
    path.write_text('{"loss": 1}\n')
    with pytest.raises(DataFileError, match="line 1 is not a training of a search"):
        quiet(fit, SpectReg(0.1), journal=path)
    with pytest.raises(InputError, match="there is no folder"):
        quiet(fit, SpectReg(0.1), journal=tmp_path / "none" / "trainings.jsonl")


def test_a_regularizer_of_its_own_kind_stays_one() -> None:
    result = quiet(lambda reg, seed: curve(weight_of(reg)), LayerwiseReg(0.01, layers=("a", "b")), trainings=3)
    assert isinstance(result.regularizer, LayerwiseReg)
    assert result.regularizer.weight in (0.01, 0.1)


def test_scores_that_differ_by_rounding_are_equal_and_the_smaller_weight_is_best() -> None:
    result = quiet(lambda reg, seed: 0.92 + (2e-8 if weight_of(reg) > 1 else 0.0), SpectReg(1.0), trainings=4)
    assert result.regularizer is None


def test_a_search_where_all_diverges_says_so() -> None:
    result = quiet(lambda reg, seed: math.nan, SpectReg(0.01), seeds=(0, 1), trainings=8)
    assert "All trainings diverged" in str(result)
    assert result.standard_error(result.none) is None


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
    assert "One seed does not tell how certain" in str(quiet(lambda reg, seed: curve(weight_of(reg)), SpectReg(BEST)))


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
        ((lambda reg, seed: 1.0, SpectReg(1.0)), {"seeds": (1, 1), "trainings": 4}, InputError, "seeds must differ"),
        ((lambda reg, seed: 1.0, SpectReg(1.0)), {"trainings": 1}, InputError, "trainings must be an integer of"),
        ((lambda reg, seed: 1.0, SpectReg(1.0)), {"trainings": None}, InputTypeError, "trainings must be"),
        ((lambda reg, seed: "good", SpectReg(1.0)), {}, InputTypeError, "fit must return a score"),
        ((lambda reg, seed: None, SpectReg(1.0)), {}, InputTypeError, "fit must return a score"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(arguments: Any, options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"search: .*{message}"):
        search(*arguments, progress=False, **options)
