"""``gradreg sweep``."""

from gradreg_sweep import report


def test_the_command(gradreg, tmp_path) -> None:
    def call(*words):
        return gradreg("sweep", *words)

    listed = call("torch", "--list", "--op", "cdist")
    assert (listed.exit_code, listed.output) == (0, "torch eager reverse-reverse torch.cdist\n")
    swept = call("torch", "--op", "functional.softmin", "--report", str(tmp_path / "a.md"))
    assert swept.exit_code == 0, swept.output
    assert "right" in swept.output
    assert "softmin" in (tmp_path / "a" / "torch.md").read_text()
    composed = call("torch", "--op", "softmin", "--mode", "func", "--composition", "forward-forward")
    assert composed.output.split("\n")[1].split()[1:] == ["func", "forward-forward", "float64", "right"]
    low = call(
        "torch", "--op", "softmin", "--dtype", "bfloat16", "--examples", "0", "--report", str(tmp_path / "l.json")
    )
    assert low.exit_code == 0, low.output
    assert [(row.dtype, row.kind, row.examples) for row in report.read(tmp_path / "l.json")] == [
        ("bfloat16", "right", 1)
    ]
    assert "no operation matches" in call("torch", "--op", "nonsense").output
    assert "no such mode: xla. There are torch: eager, func, compile" in call("torch", "--mode", "xla").output
    assert "expected one of torch, jax, tensorflow, got 'mxnet'" in call("mxnet").output


def test_a_sweep_goes_on_where_another_stopped(gradreg, tmp_path) -> None:
    def call(*words):
        return gradreg("sweep", *words)

    call("torch", "--op", "softmin", "--examples", "1", "--report", str(tmp_path / "a.json"))
    before = report.read(tmp_path / "a.json")
    both = ("--composition", "reverse-reverse", "--composition", "forward-reverse", "--examples", "1")
    call("torch", "--op", "softmin", *both, "--add", str(tmp_path / "a.json"), "--report", str(tmp_path / "b.json"))
    after = report.read(tmp_path / "b.json")
    assert after[:1] == before
    assert [finding.composition for finding in after] == ["reverse-reverse", "forward-reverse"]
