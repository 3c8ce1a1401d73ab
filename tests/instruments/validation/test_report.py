"""The report as text and as JSON."""

import json
import re

from gradreg_core import SpectReg
from gradreg_validation import validate
from instruments.validation.ports import Net, X, torch


def test_what_roundoff_decides_has_a_note():
    class Rounded(Net):
        def forward(self, x):
            return super().forward(x) + torch.round(x[:, :3] * 2**24) % 2

    report = validate(Rounded(), Rounded(), X, reg=SpectReg(1.0), repeats=1)
    assert any(note.startswith("hardly compared, because one unit") for note in report.notes), report


def test_the_report_goes_to_text_and_json():
    class Broken(Net):
        def forward(self, x):
            outputs = super().forward(x)
            return outputs + 0 * torch.sqrt((outputs * 0).abs())  # the derivative is NaN

    report = validate(Net(), Broken(), X, reg=SpectReg(1.0), repeats=1)
    values = json.loads(report.to_json())
    assert values == report.to_dict()
    assert (values["verdict"], values["ok"]) == ("disagree", False)
    by_name = {row["quantity"]: row for row in values["rows"]}
    assert by_name["outputs"]["agrees"] is True
    assert by_name["penalty SpectReg(1.0)"]["difference"] is None
    assert report.cause.startswith("NaN or infinite in at least one of the models: penalty SpectReg(1.0), input")
    assert values["versions"]["torch"] == torch.__version__
    assert re.search(r"^penalty SpectReg\(1\.0\) +inf .*DIFFERS$", str(report), re.MULTILINE)
