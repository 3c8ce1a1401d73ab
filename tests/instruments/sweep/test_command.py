"""``gradreg sweep``."""


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
