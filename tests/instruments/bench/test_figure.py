"""The picture of the benchmark has all that it says inside, and says nothing of marks that are not there."""

import pytest

from gradreg_bench.figure import picture
from gradreg_bench.task import Measurement, Result, Task
from gradreg_bench.timing import Spread
from gradreg_bench.variants import BASELINES, PLAIN


def result(name: str, limit: float | None) -> Result:
    rows = (
        Measurement(PLAIN, Spread(1.0, 1.0, 1.0), 0.1, None),
        Measurement(name, Spread(2.5, 2.4, 2.6), 0.25, limit),
    )
    return Result(Task("torch", "mine:net", 0, (1,), (), 1, 1), 0.5, "kept", rows)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_no_text_is_cut(count: int) -> None:
    figure = picture([result(next(iter(BASELINES)), 2.0)] * count)
    figure.draw_without_rendering()
    texts = [*figure.texts, *(panel.title for panel in figure.axes)]
    texts += [label for panel in figure.axes for label in panel.get_yticklabels()]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert len(boxes) >= 1 + 2 * count
    width, height = figure.bbox.size
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)


def test_the_label_explains_the_marks_that_are_there() -> None:
    def label(*results: Result) -> str:
        return " ".join(picture(results).get_supxlabel().split())

    alone = "time of a step as a multiple of the plain step (log scale), median and quartiles"
    assert label(result("SpectReg", None)) == alone
    assert label(result("SpectReg", 2.0)) == f"{alone}; |: limit of exact double backpropagation"
    assert label(result(next(iter(BASELINES)), None)) == f"{alone}; grey: baselines"
