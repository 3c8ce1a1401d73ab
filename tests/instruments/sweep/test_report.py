"""The report as pages and as JSON, and the records and pages that are committed."""

import platform
import re
from pathlib import Path

import pytest

from gradreg_sweep import report
from gradreg_sweep.upstream import issue
from instruments.sweep.findings import WRONG, disagreement, finding, run

DOCS = Path(__file__).parents[3] / "docs"
RECORDS = report.read(DOCS / "findings" / "records.json")
OTHERS = [row for path in sorted((DOCS / "findings").glob("*-*.json")) for row in report.read(path)]
"""Of other versions of the frameworks."""
SHOWN = {
    (row.operation, row.kind, row.dtype): row
    for row in reversed(RECORDS)
    if row.reproduction and row.framework == "torch" and row.mode != "compile"
}


def test_the_pages_have_every_finding_with_its_program() -> None:
    rows = [
        finding(),
        finding(composition="forward-forward", mode="func"),
        finding(operation="good", kind="right", reproduction=""),
    ]
    pages = report.as_pages(rows)
    where = "reverse-reverse (eager); forward-forward (func)"
    assert f"| [mine](findings/torch.md#mine-wrong) | PyTorch 0 | {where} | wrong | 2e-01 |" in pages["findings.md"]
    assert "(=mine-wrong)=\n### mine" in pages["findings/torch.md"]
    assert "```python\nprint(1)\n```" in pages["findings/torch.md"]
    assert "**reverse-reverse, eager** (1): good." in pages["findings/torch.md"]


def test_what_was_not_examined_is_listed_with_the_reason_and_not_counted() -> None:
    others = ["torch.other", "torch.nn.functional._other_, p=0.5", "torch.nn.functional.two"]
    untried = [finding(operation=name, kind="not tried", detail="it is random") for name in others]
    pages = report.as_pages([finding(), *untried])
    assert "| PyTorch 0 | reverse-reverse | eager | float64 | 1 |" in pages["findings.md"]
    coverage = pages["findings/coverage.md"]
    assert "Examined in reverse-reverse (1):\n\n- **other**: mine\n\n" in coverage
    names = "- **torch**: other\n- **torch.nn.functional**: \\_other\\_, p=0.5; two\n"
    assert f"Not examined (3), since it is random:\n\n{names}" in coverage


def test_a_finding_is_cited_by_what_went_wrong() -> None:
    cited = {
        "pytorch/pytorch#196700": finding(operation="torch.nn.LayerNorm", composition="reverse-forward"),
        "pytorch/pytorch#175754": finding(operation="torch.nn.LayerNorm", composition="reverse-reverse-reverse"),
        "not reported": finding(operation="torch.nn.LayerNorm", kind="raises", detail="RuntimeError: other"),
    }
    assert {text: text in issue(row) for text, row in cited.items()} == dict.fromkeys(cited, True)
    page = report.as_pages([cited["pytorch/pytorch#196700"]])["findings.md"]
    assert "| layer_norm | torch.nn.LayerNorm: by reverse-forward |" in page
    assert "| cholesky_solve | not examined |" in page
    good = report.as_pages([finding(operation="torch.cholesky_solve", kind="right", composition="forward-forward")])
    assert "| cholesky_solve | does not reproduce |" in good["findings.md"]


def test_json_reads_back(tmp_path) -> None:
    rows = [finding(also=("NaN",), configuration={"b": 1})]
    report.write(tmp_path / "a.json", rows)
    assert report.read(tmp_path / "a.json") == rows


def test_changes_between_versions_are_told() -> None:
    before, after = finding(), finding(kind="right")
    assert report.changes([before], [after]) == [(before, after)]
    assert report.changes([before], [before, finding(mode="func")]) == []


def test_a_page_tells_two_versions_apart() -> None:
    after = [finding(version="PyTorch 1", kind="right"), finding(version="PyTorch 1", operation="same")]
    page = report.as_pages([finding(), finding(operation="same")], compared=after)["findings.md"]
    assert (
        "Of 2 records of both PyTorch 0 and PyTorch 1, 1 differ: 1 are right only in the second,\n0 only in the first."
        in page
    )
    assert "| mine | reverse-reverse (eager) | wrong | right |" in page
    assert "Between versions" not in report.as_pages([finding()], compared=[finding()])["findings.md"]


def test_what_another_version_gets_wrong_in_silence_is_shown() -> None:
    before = finding(kind="raises", detail="RuntimeError: no rule")
    after = finding(version="PyTorch 1", kind="NaN", reproduction="print(2)\n")
    pages = report.as_pages([before], compared=[after])
    assert "| mine | reverse-reverse (eager) | raises | NaN | not reported |" in pages["findings.md"]
    assert (
        "(findings/torch.md#mine-nan), reverse-reverse (eager), is silently NaN in PyTorch 1." in pages["findings.md"]
    )
    head = "(=mine-nan)=\n### mine in PyTorch 1\n\nreverse-reverse (eager): NaN\n\n```python\nprint(2)\n```"
    assert head in pages["findings/torch.md"]
    assert "> **mine: the derivative by reverse-reverse is silently NaN**" in pages["findings/torch.md"]


def test_a_finding_in_one_dtype_alone_is_told_apart() -> None:
    right = finding(kind="right", reproduction="")
    untried = finding(operation="other", kind="not tried", detail="it has no value there", dtype="bfloat16")
    later = finding(operation="later", kind="right", reproduction="")
    pages = report.as_pages([finding(kind="NaN", dtype="bfloat16"), right, untried, later])
    summary = pages["findings.md"]
    assert "| PyTorch 0 | reverse-reverse | eager | bfloat16 | 1 |" in summary
    alone = "- [mine](findings/torch.md#mine-nan-bfloat16): NaN, reverse-reverse (eager in bfloat16)\n"
    assert f"Right in float64, but not in float32 or bfloat16:\n\n{alone}" in summary
    assert "| reverse-reverse (eager in bfloat16) | NaN | " in summary
    assert "| not reported | right by reverse-reverse (eager) |" in summary
    assert "> **mine: the derivative by reverse-reverse is silently NaN in bfloat16**" in pages["findings/torch.md"]
    assert (
        "In bfloat16, 1 operations were examined, in reverse-reverse (eager). Everything"
        in pages["findings/coverage.md"]
    )
    assert "Not examined in bfloat16 (1), since it has no value there:" in pages["findings/coverage.md"]
    assert (
        "Not examined in bfloat16 (1), since it was not run:\n\n- **other**: later\n" in pages["findings/coverage.md"]
    )


def test_what_is_missing_in_float64_too_is_not_told_apart() -> None:
    both = [finding(kind="raises", composition=way) for way in ("forward-forward", "forward-reverse")]
    low = [finding(kind="raises", composition="forward-forward", dtype="float32")]
    summary = report.as_pages([*both, *low])["findings.md"]
    assert "Right in float64, but not in" not in summary
    lost = [finding(kind="raises"), finding(kind="first derivative", detail="None", dtype="bfloat16")]
    assert "- [mine](findings/torch.md#mine-first-derivative-bfloat16)" in report.as_pages(lost)["findings.md"]
    right = finding(kind="right", composition="reverse-reverse", reproduction="")
    other = finding(kind="raises", composition="reverse-reverse", dtype="float32")
    summary = report.as_pages([*both, *low, right, other])["findings.md"]
    assert "- [mine](findings/torch.md#mine-raises-float32): raises, reverse-reverse (eager in float32)\n\n" in summary


def test_what_is_not_reported_has_a_text_for_a_report() -> None:
    right = finding(kind="right", composition="reverse-forward", reproduction="")
    rows = [finding(), finding(mode="func"), finding(composition="forward-reverse"), right]
    text = [
        "> **mine: the derivative by reverse-reverse and forward-reverse is silently wrong**",
        "> Run the program with PyTorch 0 on a CPU. "
        "Reverse-reverse is the gradient of ||J^T w||^2, as penalties on gradients take it.",
        "> Expected: the two numbers that it prints agree.",
        "> Got: they differ, by up to 2e-01 of the larger one.",
        "> Seen by reverse-reverse (eager, func); forward-reverse (eager). Right by reverse-forward (eager).",
    ]
    assert "\n>\n".join(text) in report.as_pages(rows)["findings/torch.md"]
    reported = finding(operation="torch.nn.LayerNorm", composition="reverse-forward")
    assert report.texts([reported]) == {"print(1)\n": []}


def test_a_text_does_not_call_an_error_silent() -> None:
    loud = finding(kind="first derivative", detail="NotImplementedError: no rule")
    assert report.texts([loud])["print(1)\n"][:1] == ["mine: no gradient"]
    assert "Got: NotImplementedError: no rule." in report.texts([loud])["print(1)\n"]
    silent = finding(kind="first derivative", detail="NaN")
    assert report.texts([silent])["print(1)\n"][0] == "mine: the gradient is silently NaN"


def test_a_row_says_in_which_mode_its_composition_is_right() -> None:
    rows = [finding(), finding(kind="right", mode="func"), finding(kind="right", composition="forward-forward")]
    assert "| not reported | right by reverse-reverse (func) |" in report.as_pages(rows)["findings.md"]


def test_the_records_have_what_the_frameworks_are_known_to_get_wrong() -> None:
    silent = {row.operation for row in RECORDS if row.kind in report.SILENT}
    assert {*WRONG, "tf.image.resize, bilinear", "tf.reduce_prod", "tf.nn.ctc_loss"} <= silent
    assert any(row.operation == "tf.nn.softsign" and row.kind == "raises" for row in RECORDS)
    low = {(row.operation, row.dtype, row.detail) for row in RECORDS if row.kind == "first derivative"}
    assert ("torch.linalg.matrix_exp", "bfloat16", "NaN") in low
    assert ("tf.keras.layers.UpSampling2D, bicubic", "bfloat16", "None") in low
    assert ("jax.scipy.special.bessel_jn", "float32", "NaN") in low


@pytest.mark.parametrize("shown", SHOWN.values(), ids=lambda row: f"{row.operation}-{row.kind}-{row.dtype}")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of checkpoint, before it refuses
@pytest.mark.filterwarnings("ignore:.*index_reduce:UserWarning")  # of single operations, as the next
@pytest.mark.filterwarnings("ignore:torch.triangular_solve:UserWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # PyTorch's own, by forward mode
def test_the_programs_of_the_records_show_it(shown) -> None:
    if shown.kind == "raises" or (shown.kind == "first derivative" and shown.detail not in ("", "NaN")):
        causes = "not implemented|double backward|use_reentrant|saved tensor hooks|mutate a captured|have storage"
        causes += "|inplace|forward AD|same dtype"
        with pytest.raises(RuntimeError, match=causes):
            run(shown)
    elif shown.kind == "None":
        assert "None" in run(shown)
    elif "NaN" in (shown.kind, shown.detail):
        assert "nan" in run(shown)
    else:
        assert disagreement(run(shown)) > 1e-5


def test_the_committed_pages_are_made_of_the_committed_records(monkeypatch) -> None:
    text = (DOCS / "findings.md").read_text()
    machine, python = re.search(r"; (\S+), CPU, Python (\S+)\.$", text, re.M).groups()
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "python_version", lambda: python)
    for name, page in report.as_pages(RECORDS, compared=OTHERS).items():
        assert page == (DOCS / name).read_text()
