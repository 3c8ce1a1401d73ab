"""Issues of the frameworks that report findings, found by searching."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gradreg_sweep.search import Finding
from gradreg_sweep.verdict import SILENT

__all__ = ["REPORTS", "UNREPORTED", "Report", "issue"]

UNREPORTED = "not reported"

_SECOND = ("reverse-reverse", "forward-reverse", "reverse-forward", "forward-forward", "reverse-forward-forward")
_ANY = ("*",)


@dataclass(frozen=True)
class Report:
    """An issue or a pull request, with the findings that it reports.

    Args:
        issue: owner/repository#number.
        title: in a few words.
        operations: patterns of their names.
        kinds: of the findings.
        detail: a part of the error.
        compositions: patterns of the findings' compositions.
        modes: patterns of the findings' modes.
    """

    issue: str
    title: str
    operations: tuple[str, ...]
    kinds: tuple[str, ...] = SILENT
    detail: str = ""
    compositions: tuple[str, ...] = _ANY
    modes: tuple[str, ...] = _ANY

    @property
    def link(self) -> str:
        """In Markdown."""
        repository, _, number = self.issue.partition("#")
        return f"[{self.issue}](https://github.com/{repository}/issues/{number})"

    @property
    def framework(self) -> str:
        """The name by which its framework is swept."""
        owner = self.issue.partition("/")[0]
        return {"pytorch": "torch", "jax-ml": "jax"}.get(owner, "tensorflow")

    def tests(self, finding: Finding) -> bool:
        """Whether a finding could show what it is about."""
        return (
            finding.framework == self.framework
            and _matches(finding.operation, self.operations)
            and _matches(finding.composition, self.compositions)
            and _matches(finding.mode, self.modes)
        )

    def covers(self, finding: Finding) -> bool:
        """Whether it is about a finding."""
        return self.tests(finding) and finding.kind in self.kinds and self.detail in finding.detail

    def outcome(self, findings: Sequence[Finding]) -> str:
        """Which findings show it, in words."""
        shown = [finding for finding in findings if self.covers(finding)]
        if shown:
            operations = "; ".join(dict.fromkeys(finding.operation for finding in shown))
            return f"{operations}: by {', '.join(dict.fromkeys(finding.composition for finding in shown))}"
        return "does not reproduce" if any(map(self.tests, findings)) else "not examined"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _torch(number: int, title: str, *operations: str, **more: tuple[str, ...] | str) -> Report:
    return Report(f"pytorch/pytorch#{number}", title, operations, **more)  # type: ignore[arg-type]


def _tensorflow(number: int, title: str, *operations: str, **more: tuple[str, ...] | str) -> Report:
    return Report(f"tensorflow/tensorflow#{number}", title, operations, **more)  # type: ignore[arg-type]


_RAISES = {"kinds": ("raises",)}
_FIRST = {"kinds": ("first derivative",)}
REPORTS = (
    _torch(190855, "torch.trace under Inductor", "torch.trace", modes=("compile",)),
    _torch(175754, "layer_norm, third order", "*LayerNorm", "*layer_norm*", compositions=("reverse-reverse-reverse",)),
    _torch(186256, "batch_norm, third order", "*BatchNorm*", "*InstanceNorm*", "*batch_norm*", "*instance_norm*",
           compositions=("reverse-reverse-reverse",)),
    _torch(186779, "batch_norm, third order: a change that makes it an error", "*BatchNorm*", "*InstanceNorm*",
           "*batch_norm*", "*instance_norm*", detail="batch_norm does not support 3rd", **_RAISES),
    _torch(196695, "linalg.solve", "torch.linalg.solve", "torch.linalg.solve_ex", "torch.linalg.tensorsolve"),
    _torch(196696, "det", "torch.linalg.det", "torch.det", "torch.linalg.det, singular"),
    _torch(104675, "det of a singular matrix", "torch.linalg.det, singular", "torch.linalg.det", **_FIRST),
    _torch(196697, "slogdet", "torch.linalg.slogdet", "torch.logdet"),
    _torch(196698, "householder_product", "torch.linalg.householder_product", "torch.ormqr"),
    _torch(196699, "batch_norm", "*BatchNorm*", "*InstanceNorm*", "*batch_norm*", "*instance_norm*",
           compositions=_SECOND),
    _torch(196700, "layer_norm", "*LayerNorm", "*layer_norm*", compositions=_SECOND),
    _torch(196701, "cumprod at a zero", "torch.cumprod"),
    _torch(196702, "scatter_reduce, prod", "torch.scatter_reduce, prod"),
    _torch(196694, "cholesky_solve", "torch.cholesky_solve*"),
    _torch(196682, "cholesky_inverse", "torch.cholesky_inverse"),
    _torch(196707, "triangular_solve, entries that it ignores", "torch.triangular_solve"),
    _torch(196703, "sinc at zero", "torch.sinc", "torch.special.sinc*"),
    _torch(162350, "softmax by forward mode inside reverse mode", "*", detail="modified by an inplace operation",
           compositions=("reverse-forward",), **_RAISES),
    _torch(116350, "backward of attention", "*", detail="derivative for aten::_scaled_dot_product", **_RAISES),
    _torch(128971, "attention by forward mode", "*", detail="forward AD with _scaled_dot_product", **_RAISES),
    _torch(83510, "cdist", "torch.cdist", detail="'_cdist_backward'", **_RAISES),
    _torch(188901, "cdist and pdist: a change that mends them", "torch.cdist", "torch.nn.functional.pdist",
           detail="dist_backward'", **_RAISES),
    Report("jax-ml/jax#7922", "gammainc and what is made of it", ("*",), ("raises",), "'igamma_grad_a'"),
    Report("jax-ml/jax#15487", "betainc with respect to a and b", ("*",), ("first derivative",), "Betainc gradient"),
    Report("jax-ml/jax#38831", "schur and what is made of it", ("*",), ("first derivative",), "'schur'"),
    Report("jax-ml/jax#40628", "i0 at zero, first order", ("jax.scipy.special.i0, at zero", "jnp.i0"),
           ("first derivative",)),
    Report("jax-ml/jax#40627", "i0 at zero, second order", ("jnp.i0, at zero",)),
    Report("jax-ml/jax#40640", "i0 and i1 at zero: a change that mends them", ("jax.scipy.special.i1, at zero",)),
    _tensorflow(26495, "cross-entropy with labels that depend on the input",
                "tf.nn.softmax_cross_entropy_with_logits, labels of the model"),
    _tensorflow(120578, "bessel_i1 at zero", "tf.math.bessel_i1, at zero", **_FIRST),
    _tensorflow(127753, "forward mode inside forward mode, in eager mode alone, where an intermediate is used twice",
                "tf.identity, used twice", "tf.linalg.pinv", "tf.linalg.lstsq", compositions=("forward-forward",)),
    _tensorflow(127224, "expm by forward mode inside forward mode", "tf.linalg.expm*",
                compositions=("forward-forward",)),
    _tensorflow(127243, "cumulative_logsumexp", "tf.math.cumulative_logsumexp"),
    _tensorflow(120578, "bessel_i1 at zero, which is the derivative of bessel_i0", "tf.math.bessel_i0, at zero"),
    _tensorflow(61117, "reduce_prod at a zero", "tf.reduce_prod", "tf.keras.ops.prod"),
    _tensorflow(119430, "cumprod at a zero", "tf.math.cumprod", "tf.keras.ops.cumprod", **_FIRST),
    _tensorflow(127226, "sinc at zero", "tf.keras.ops.sinc*", **_FIRST),
    _tensorflow(119477, "det of a singular matrix", "tf.linalg.det, singular", **_FIRST),
    _tensorflow(38643, "resize, bilinear", "tf.image.resize, bilinear", "*UpSampling2D, bilinear", "*Resizing",
                "tf.keras.ops.image.resize", "tf.image.resize_with_pad"),
    _tensorflow(126083, "adjust_hue, adjust_saturation and adjust_contrast", "tf.image.adjust_*", **_FIRST),
    _tensorflow(21510, "hsv_to_rgb", "tf.image.hsv_to_rgb", **_FIRST),
    _tensorflow(22825, "local response normalization", "tf.nn.local_response_normalization", **_RAISES),
    _tensorflow(22208, "resize, nearest", "tf.image.resize, nearest", **_RAISES),
    _tensorflow(7641, "resize, bicubic", "tf.image.resize, bicubic", "*UpSampling2D, bicubic", **_RAISES),
    _tensorflow(126092, "softsign", "tf.nn.softsign", "tf.keras.*softsign", **_RAISES),
)  # fmt: skip
"""The first that covers a finding is cited."""


def issue(finding: Finding) -> str:
    """A link in Markdown to the report of a finding; UNREPORTED if none is known."""
    return next((report.link for report in REPORTS if report.covers(finding)), UNREPORTED)
