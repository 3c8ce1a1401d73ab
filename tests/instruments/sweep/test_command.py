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
    assert "forward-forward  right" in composed.output
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
