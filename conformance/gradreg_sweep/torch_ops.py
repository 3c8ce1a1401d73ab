"""The operations and modules of PyTorch that users' models are made of."""

from typing import Any

from gradreg_sweep.operation import MATRICES, VECTORS, Operation, function, functions

__all__ = ["OPERATIONS"]

SEQUENCES: dict[str, Any] = {"shape": "({b}, {t}, {n})", "sizes": {"b": (1, 2), "t": (2, 4), "n": (2, 4)}}
IMAGES: dict[str, Any] = {"shape": "({b}, {c}, {r}, {r})", "sizes": {"b": (1, 2), "c": (1, 2), "r": (3, 5)}}
VOLUMES: dict[str, Any] = {"shape": "(1, {c}, {r}, {r}, {r})", "sizes": {"c": (1, 2), "r": (2, 4)}}
EYE = "torch.eye({n}, dtype=h.dtype)"
SYMMETRIC = f"h @ h.mT + 2 * {EYE}"
BOTH = ("eager", "func")
F = "torch.nn.functional"


def module(name: str, arguments: str = "", call: str = "layer(h)", **more: Any) -> Operation:
    """A module with parameters of float64, or without any."""
    made = f"layer = torch.nn.{name}({arguments}).to(torch.{{dtype}})"
    return Operation(f"torch.nn.{name}", call, setup=made, **more)


_ACTIVATIONS = (
    *functions(F, (
        "relu", "relu6", "elu", "selu", "celu", "silu", "mish", "softplus", "softsign", "hardsigmoid", "hardswish",
        "hardtanh", "hardshrink", "softshrink", "tanhshrink", "leaky_relu", "logsigmoid", "rrelu",
    ), **VECTORS),
    function(f"{F}.gelu", f"{F}.gelu(h, approximate='{{how}}')", options={"how": ("none", "tanh")}, **VECTORS),
    function(f"{F}.threshold", f"{F}.threshold(h, 0.1, 0.2)", **VECTORS),
    function(f"{F}.glu", shape="({b}, 2 * {n})"),
    module("PReLU", **VECTORS),
    *functions(F, ("softmax(h, -1)", "softmin(h, -1)", "log_softmax(h, -1)"), modes=BOTH, **VECTORS),
    function("torch.logsumexp", "torch.logsumexp(h, -1)", **VECTORS),
)  # fmt: skip

_NORMS = (
    module("LayerNorm", "{n}", modes=BOTH, **VECTORS),
    module("RMSNorm", "{n}", modes=BOTH, **VECTORS),
    module("GroupNorm", "{g}, 2", options={"g": (1, 2)}, shape="({b}, 2, {n})", modes=BOTH),
    module("BatchNorm1d", "{n}, track_running_stats={track}", options={"track": (False, True)},
           shape="({b}, {n})", sizes={"b": (3, 4), "n": (1, 3)}),
    function("torch.nn.BatchNorm1d, not training", "layer(h)", **VECTORS,
             setup="layer = torch.nn.BatchNorm1d({n}).to(torch.{dtype}).eval()"),
    module("BatchNorm2d", "{c}, track_running_stats=False", **IMAGES),
    module("InstanceNorm2d", "{c}, affine=True", **IMAGES),
    module("LocalResponseNorm", "2", **IMAGES),
    function(f"{F}.normalize", f"{F}.normalize(h, p={{p}}, dim=-1)", options={"p": (2.0, 1.0, 3.0)}, **VECTORS),
    *functions("torch.linalg", ("vector_norm(h, {p}, dim=-1)",), options={"p": (2, 1, "float('inf')", 3)}, **VECTORS),
    function("torch.renorm", "torch.renorm(h, 2, 0, 0.5)", **VECTORS),
    function("torch.nn.utils.parametrizations.weight_norm", "layer(h)", **VECTORS,
             setup="layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear({n}, 2)).to(torch.{dtype})"),
    *functions("torch", ("var(h, -1)", "std(h, -1)"), **VECTORS),
)  # fmt: skip

_POOLS = (
    *(
        module(f"{kind}{rank}d", arguments, **shape)
        for rank, shape in ((1, SEQUENCES), (2, IMAGES), (3, VOLUMES))
        for kind, arguments in (("MaxPool", "2"), ("AvgPool", "2"), ("AdaptiveMaxPool", "2"), ("AdaptiveAvgPool", "2"))
    ),
    function("torch.nn.MaxPool2d, overlapping", "3 * layer({near})",
             options={"near": ("1 + 1e-3 * h", "h")}, setup="layer = torch.nn.MaxPool2d(2, 1, 1)", **IMAGES),
    module("LPPool2d", "3, 2", call="layer(h + 2)", **IMAGES),
    function(f"{F}.fractional_max_pool2d",
             f"{F}.fractional_max_pool2d(h, 2, output_size=2, "
             "_random_samples=torch.full((h.shape[0], h.shape[1], 2), 0.4, dtype=h.dtype))", **IMAGES),
    function("torch.nn.MaxUnpool2d",
             f"{F}.max_unpool2d(*{F}.max_pool2d(h, 2, return_indices=True), 2, output_size=h.shape)", **IMAGES),
)  # fmt: skip

_LINEAR = (
    module("Linear", "{n}, 3", **VECTORS),
    module("Bilinear", "{n}, {n}, 2", "layer(h, torch.sin(h))", **VECTORS),
    module("Conv1d", "{t}, 2, 2", **SEQUENCES),
    module("Conv2d", "{c}, 2, 2, stride={s}, padding={p}, padding_mode='{how}'",
           options={"s": (1, 2), "p": (0, 1), "how": ("zeros", "reflect", "circular")}, **IMAGES),
    function("torch.nn.Conv2d, dilated", "layer(h)",
             setup="layer = torch.nn.Conv2d({c}, 2, 2, dilation=2).to(torch.{dtype})", **IMAGES),
    module("Conv3d", "{c}, 2, 2", **VOLUMES),
    module("ConvTranspose1d", "{t}, 2, 2", **SEQUENCES),
    module("ConvTranspose2d", "{c}, 2, 2, stride={s}", options={"s": (1, 2)}, **IMAGES),
    module("ConvTranspose3d", "{c}, 1, 2", **VOLUMES),
    module("Unfold", "2", **IMAGES),
    function(f"{F}.fold", f"{F}.fold(h, (3, 3), 2) ** 2", shape="(1, 4, 4)", sizes={}),
    function("torch.einsum", "torch.einsum('bij,bkj->bik', h, torch.sin(h))", **SEQUENCES),
    *functions("torch", ("cdist(h, torch.sin(h) + 1, p={p})",), options={"p": (2.0, 1.0, 3.0)}, **VECTORS),
    function(f"{F}.pdist", shape="({b}, {n})", sizes={"b": (2, 3), "n": (1, 3)}),
    function(f"{F}.pairwise_distance", f"{F}.pairwise_distance(h, h[:, [1, 0]].sum(1, keepdim=True) + 2)", **VECTORS),
    function(f"{F}.cosine_similarity", f"{F}.cosine_similarity(h, torch.sin(h) + 1)", **VECTORS),
)  # fmt: skip

_ATTENTION = (
    function(f"{F}.scaled_dot_product_attention",
             f"{F}.scaled_dot_product_attention(h, torch.sin(h), h, is_causal={{causal}})",
             options={"causal": (False, True)}, shape="(1, 1, {t}, {n})", sizes={"t": (2, 3), "n": (1, 4)}, modes=BOTH),
    function(f"{F}.scaled_dot_product_attention, SDPBackend.MATH", "attend(h)",
             setup="from torch.nn.attention import SDPBackend, sdpa_kernel\n\n\n"
             "def attend(h):\n    with sdpa_kernel(SDPBackend.MATH):\n"
             f"        return {F}.scaled_dot_product_attention(h, torch.sin(h), h)",
             shape="(1, 1, {t}, {n})", sizes={"t": (2, 3), "n": (1, 4)}),
    module("MultiheadAttention", "{n}, 1, batch_first=True", "layer(h, h, h, need_weights={need})[0]",
           options={"need": (False, True)}, **SEQUENCES),
    module("TransformerEncoderLayer", "{n}, 1, 2, 0.0, batch_first=True", **SEQUENCES),
    module("LSTM", "{n}, 2, batch_first=True", "layer(h)[0]", **SEQUENCES),
    module("GRU", "{n}, 2, batch_first=True", "layer(h)[0]", **SEQUENCES),
    module("RNN", "{n}, 2, batch_first=True", "layer(h)[0]", **SEQUENCES),
    module("LSTMCell", "{n}, 2", "layer(h)[0]", **VECTORS),
    module("GRUCell", "{n}, 2", **VECTORS),
    function(f"{F}.embedding_bag", f"{F}.embedding_bag(torch.tensor([[0, 0]]), h, mode='{{mode}}')",
             options={"mode": ("mean", "sum", "max")}, **VECTORS),
    function(f"{F}.embedding", f"{F}.embedding(torch.tensor([0, 0]), h) ** 2", **VECTORS),
)  # fmt: skip

_CORNERS = {"corners": (False, True), "anti": (False, True)}
_IMAGES = (
    *(
        function(f"{F}.interpolate, {method}",
                 f"{F}.interpolate(h, size=({{s}}, {{s}}), mode='{method}'{more})", options={"s": (2, 4, 7)} | options,
                 **IMAGES)
        for method, more, options in (
            ("nearest", "", {}), ("nearest-exact", "", {}), ("area", "", {}),
            ("bilinear", ", align_corners={corners}, antialias={anti}", _CORNERS),
            ("bicubic", ", align_corners={corners}, antialias={anti}", _CORNERS),
        )
    ),
    function(f"{F}.interpolate, linear", f"{F}.interpolate(h, size=5, mode='linear')", **SEQUENCES),
    function(f"{F}.interpolate, trilinear", f"{F}.interpolate(h, size=(3, 3, 3), mode='trilinear')", **VOLUMES),
    *(
        function(f"{F}.grid_sample, {method}",
                 f"{F}.grid_sample(h, torch.tanh(torch.stack([h[:, 0], h[:, 0].mT], -1)), '{method}', '{{pad}}', "
                 "align_corners={corners})",
                 options={"corners": (True, False), "pad": ("zeros", "border", "reflection")}, **IMAGES)
        for method in ("bilinear", "nearest", "bicubic")
    ),
    function(f"{F}.grid_sample, volumes",
             f"{F}.grid_sample(h, torch.tanh(torch.stack([h[:, 0]] * 3, -1)), 'bilinear', align_corners=True)",
             **VOLUMES),
    *functions(F, ("affine_grid(h, (1, 1, 2, 2), align_corners=True) ** 2",), shape="(1, 2, 3)", sizes={}),
    function(f"{F}.pad", f"{F}.pad(h, (1, 1, 1, 1), mode='{{mode}}')",
             options={"mode": ("constant", "reflect", "replicate", "circular")}, **IMAGES),
    module("PixelShuffle", "2", shape="(1, 4, {r}, {r})", sizes={"r": (1, 3)}),
    module("PixelUnshuffle", "2", shape="(1, 1, 4, 4)", sizes={}),
    module("ChannelShuffle", "2", shape="(1, 4, {r}, {r})", sizes={"r": (1, 3)}),
)  # fmt: skip

_LOSSES = (
    *functions(F, (
        "mse_loss(h, h.flip(1) ** 2 + 1)", "l1_loss(h, h[:, :1].expand_as(h) ** 2 + 2)",
        "smooth_l1_loss(3 * h, torch.sin(h) ** 2)", "huber_loss(3 * h, torch.sin(h) ** 2)",
        "kl_div(torch.log_softmax(h, -1), torch.softmax(h ** 2, -1), reduction='batchmean')",
        "binary_cross_entropy(torch.sigmoid(h), torch.full_like(h, 0.3))",
        "binary_cross_entropy_with_logits(h, torch.sigmoid(h ** 2))", "poisson_nll_loss(h, torch.ones_like(h))",
        "gaussian_nll_loss(h, torch.zeros_like(h), h ** 2 + 1)", "soft_margin_loss(h, torch.ones_like(h))",
        "hinge_embedding_loss(h, -torch.ones_like(h))", "multilabel_soft_margin_loss(h, torch.ones_like(h))",
        "margin_ranking_loss(h[:, 0], h[:, 1], torch.ones(h.shape[0]))",
        "cosine_embedding_loss(h, torch.sin(h) + 1, torch.ones(h.shape[0]))",
        "triplet_margin_loss(h, torch.sin(h) + 1, h ** 2)",
        "nll_loss(torch.log_softmax(h, -1), torch.arange(h.shape[0]) % h.shape[1])",
        "cross_entropy(h, torch.arange(h.shape[0]) % h.shape[1], label_smoothing=0.1)",
        "multi_margin_loss(h, torch.arange(h.shape[0]) % h.shape[1])",
        "multilabel_margin_loss(h, torch.arange(h.shape[1]).expand(h.shape) * 0)",
    ), **VECTORS),
    function(f"{F}.cross_entropy, labels of the model",
             f"{F}.cross_entropy(h, torch.softmax(h.flip(1), -1))", **VECTORS),
    function(f"{F}.ctc_loss",
             f"{F}.ctc_loss(torch.log_softmax(h, -1)[:, None], torch.tensor([[1]]), [{{t}}], [1])",
             shape="({t}, {n})", sizes={"t": (2, 4), "n": (2, 3)}),
)  # fmt: skip

_REDUCTIONS = (
    *functions("torch", (
        "prod(h, 0) + h.sum(0)", "cumprod(h, 0) + h.sum(0)",
    ), shape="({b}, {n})", sizes={"b": (2, 4), "n": (1, 2)}, zeros=2, modes=BOTH),
    *functions("torch", (
        "cumsum(h, {axis}) * h", "logcumsumexp(h, {axis})", "cummax(h, {axis})[0]", "sort(h, {axis})[0]",
        "amax(h, {axis})", "max(h, {axis})[0]", "median(h, {axis})[0]", "mode(h, {axis})[0]",
    ), options={"axis": (-1, 0)}, **VECTORS),
    *functions("torch", (
        "topk(h, 2)[0]", "kthvalue(h, 2)[0]", "quantile(h, 0.3, dim=-1)",
        "gather(h, 1, torch.zeros(h.shape, dtype=torch.int64)) ** 2",
        "index_select(h, 1, torch.tensor([0, 1, 0])) ** 2", "index_add(h, 1, torch.tensor([0, 0]), h[:, :2] ** 2)",
    ), **VECTORS),
    *(
        function(f"torch.scatter_reduce, {name}",
                 f"torch.scatter_reduce(h, 1, torch.zeros(h.shape, dtype=torch.int64), h ** 2 + 1, '{name}')",
                 **VECTORS)
        for name in ("sum", "mean", "prod", "amax")
    ),
    *(
        function(f"torch.segment_reduce, {name}", f"torch.segment_reduce(h, '{name}', lengths=torch.tensor([1, 2]))",
                 shape="(3, {n})", sizes={"n": (1, 3)})
        for name in ("sum", "mean", "max", "prod")
    ),
    *functions("torch", (
        "where(h > 0, h**2, h)", "clamp(h, -0.5, 0.5)", "logaddexp(h, h.flip(1) ** 2)", "hypot(h, h + 2)",
    ), **VECTORS),
    *functions("torch.special", (
        "erf", "erfinv(h / 2)", "erfcx", "gammaln(h + 2)", "digamma(h + 2)", "polygamma(1, h + 2)",
        "multigammaln(h + 3, 2)", "ndtri((h + 2) / 4)", "log_ndtr", "i0", "i0e", "i1", "i1e", "xlogy(h + 2, h + 3)",
        "xlog1py(h + 2, h + 3)", "entr(h + 2)", "logit((h + 2) / 4)", "sinc",
        "gammainc(2.0 * torch.ones_like(h), h + 2)",
    ), bounded=True, **VECTORS),
)  # fmt: skip

_BOUNDARIES = (
    *(
        function(f"torch.special.{name}, at zero", f"torch.special.{name}(h)", zeros=1, **VECTORS)
        for name in ("sinc", "i0", "i1", "expm1", "log1p", "erfinv")
    ),
    function("torch.pow, at zero", "torch.pow(h, {power})", options={"power": (2, 3, 2.0)}, zeros=1, **VECTORS),
    *(
        function(f"torch.{name}, a masked entry",
                 f"torch.{name}(h.masked_fill(torch.arange({{n}}) == 0, -float('inf')), -1).exp()", **VECTORS)
        for name in ("softmax", "log_softmax", "logsumexp")
    ),
    function("torch.prod, of nothing", "torch.prod(h[:, :0], 1) + h.sum(1) ** 2", **VECTORS),
    function("torch.softmax, of one", "torch.softmax(h[:, :1], 1) + h", **VECTORS),
    function(f"{F}.layer_norm, of one", f"{F}.layer_norm(h[:, :1], (1,)) + h", **VECTORS),
    function(f"{F}.layer_norm, expanded", f"{F}.layer_norm(h[:1].expand(2, -1) * 1, ({{n}},))", **VECTORS),
    function(f"{F}.linear, not contiguous", f"{F}.linear(h.mT, h.flip(0).mT)", **MATRICES),
)  # fmt: skip

_LINALG = (
    *functions("torch.linalg", (
        f"cholesky({SYMMETRIC})", f"inv({SYMMETRIC})", f"pinv({SYMMETRIC})", f"det({SYMMETRIC})",
        f"slogdet({SYMMETRIC})[1]", f"eigh({SYMMETRIC})[0]", f"eigvalsh({SYMMETRIC})", f"qr({SYMMETRIC})[1]",
        f"lu({SYMMETRIC})[2]", "matrix_exp",
    ), **MATRICES),
    function("torch.linalg.det, singular", "torch.linalg.det(h) + h", shape="({n}, {n})", sizes={"n": (2, 3)}, zeros=2),
    function("torch.linalg.eigh, vectors", f"torch.linalg.eigh({SYMMETRIC})[1].abs()", **MATRICES),
    function("torch.linalg.eig", f"torch.linalg.eig({SYMMETRIC})[0].real", **MATRICES),
    function("torch.linalg.svd", "torch.linalg.svd(h + 2 * torch.eye({n}, dtype=h.dtype))[1]", **MATRICES),
    function("torch.linalg.svd, vectors", "torch.linalg.svd(h + 2 * torch.eye({n}, dtype=h.dtype))[0].abs()",
             **MATRICES),
    function("torch.linalg.matrix_norm, nuclear",
             "torch.linalg.matrix_norm(h + 2 * torch.eye({n}, dtype=h.dtype), 'nuc')", **MATRICES),
    *functions("torch.linalg", (
        f"solve({SYMMETRIC}, h)", f"lstsq({SYMMETRIC}, h)[0]", f"solve_triangular({SYMMETRIC}, h, upper=False)",
    ), **MATRICES),
    function("torch.cholesky_solve", f"torch.cholesky_solve(h, torch.linalg.cholesky({SYMMETRIC}))", **MATRICES),
    function("torch.cholesky_solve, batched",
             f"torch.cholesky_solve(h, torch.linalg.cholesky(torch.stack([{SYMMETRIC}, h.mT @ h + 2 * {EYE}])))",
             **MATRICES),
    function("torch.cholesky_inverse", f"torch.cholesky_inverse(torch.linalg.cholesky({SYMMETRIC}))", **MATRICES),
    *functions("torch.linalg", (
        "householder_product(h, torch.sin(h[0]))", f"tensorsolve({SYMMETRIC}, torch.sin(h[0]))",
    ), **MATRICES),
    function("torch.linalg.pinv, rank one", "torch.linalg.pinv(h[:, :1] @ h[:1])", **MATRICES),
    function("torch.linalg.matrix_exp, at zero", "torch.linalg.matrix_exp(h)", zeros=3, **MATRICES),
    function("torch.trace", f"1 / (h + 5 + torch.trace(h) * {EYE})", modes=("eager", "func", "compile"), **MATRICES),
    *functions("torch.fft", ("fft(h).abs()", "rfft(h).imag", "irfft(torch.fft.rfft(h) ** 2)"), **VECTORS),
    function("torch.stft", "torch.stft(h[0], 2, 1, return_complex=True, window=torch.ones(2, dtype=h.dtype)).abs()",
             shape="(1, {n})", sizes={"n": (4, 6)}),
)  # fmt: skip

_CONTROL = (
    function("torch.utils.checkpoint, use_reentrant=False",
             "checkpoint(lambda r: torch.sin(r) * r, h, use_reentrant=False)",
             setup="from torch.utils.checkpoint import checkpoint", **VECTORS),
    function("torch.utils.checkpoint, use_reentrant=True",
             "checkpoint(lambda r: torch.sin(r) * r, h, use_reentrant=True)",
             setup="from torch.utils.checkpoint import checkpoint", **VECTORS),
    function("torch.vmap", "torch.vmap(lambda r: torch.sin(r) * r.sum())(h)", **VECTORS),
    function("a module wrapped in torch.compile", "layer(h)", **VECTORS,
             setup="layer = torch.compile(torch.nn.Linear({n}, 2).to(torch.{dtype}), backend='aot_eager')"),
)  # fmt: skip

OPERATIONS = (
    *_ACTIVATIONS, *_NORMS, *_POOLS, *_LINEAR, *_ATTENTION, *_IMAGES, *_LOSSES, *_REDUCTIONS, *_BOUNDARIES, *_LINALG,
    *_CONTROL,
)  # fmt: skip
"""In the order of the report."""
