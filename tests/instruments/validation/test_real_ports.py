"""Twenty ports of networks as they are in use: right ones agree, a planted mistake is named in the right layer."""

import pytest

from gradreg_core import WeightDecay
from gradreg_validation import validate

real_ports = pytest.importorskip("instruments.validation.real_ports")
pytest.importorskip("instruments.validation.real_ports_more")
PORTS = real_ports.PORTS
LONG_TO_COMPILE = {"bert", "mixer", "vit", "transposed"}
"""Right ports that only the table's run compares: XLA needs seconds for them, and others here have the same layers."""


def report_on(name, wrong):
    options = PORTS[name].make(wrong)
    if wrong:  # the outputs differ, whatever the penalty: one without derivatives compiles in half the time
        options.setdefault("reg", WeightDecay(0.1))
    if "parameters" not in options:
        options["mapping"] = "proposed"
    return validate(options.pop("first"), options.pop("second"), options.pop("x"), repeats=1, **options)


def test_there_are_twenty():
    assert len(PORTS) == 20


@pytest.mark.slow
@pytest.mark.sample(8)
@pytest.mark.parametrize("name", sorted(set(PORTS) - LONG_TO_COMPILE))
def test_a_right_port_agrees(name):
    report = report_on(name, wrong=False)
    assert report.ok, report
    assert any(row.quantity.startswith("parameter gradient") for row in report.rows)
    assert all(row.agrees for row in report.layers), report


@pytest.mark.slow
@pytest.mark.sample(10)
@pytest.mark.parametrize("name", sorted(set(PORTS) - {"gpt"}))
def test_a_wrong_port_is_named_in_its_layer(name):
    report, port = report_on(name, wrong=True), PORTS[name]
    assert not report.ok
    assert report.first_divergence is not None, report
    assert report.first_divergence.split(" ~ ")[0] == port.layer, report
    assert port.words in report.cause, report
