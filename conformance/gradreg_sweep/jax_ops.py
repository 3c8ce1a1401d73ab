"""The operations of JAX that users' models are made of."""

from typing import Any

from gradreg_sweep.operation import MATRICES, VECTORS, function, functions

__all__ = ["OPERATIONS"]

IMAGES: dict[str, Any] = {"shape": "({b}, {r}, {r}, {c})", "sizes": {"b": (1, 2), "r": (3, 5), "c": (1, 2)}}
SYMMETRIC = "h @ h.T + 2 * jnp.eye({n})"
BOTH = ("jit", "eager")

_ACTIVATIONS = (
    *functions("jax.nn", (
        "relu", "relu6", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "soft_sign", "sigmoid",
        "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "log_sigmoid", "squareplus", "sparse_plus",
        "sparse_sigmoid", "softmax", "log_softmax", "standardize", "logsumexp",
    ), **VECTORS),
    function("jax.nn.gelu, exact", "jax.nn.gelu(h, approximate=False)", **VECTORS),
    function("jax.nn.glu", shape="({b}, 2 * {n})"),
)  # fmt: skip

_ARRAYS = (
    *(
        function(f"jnp.{name}", f"jnp.{name}(h, axis={{axis}})", options={"axis": (-1, 0)}, **VECTORS)
        for name in ("var", "std", "max", "sort", "cumsum", "median")
    ),
    *functions("jnp", (
        "prod(h, 0) + h.sum(0)", "cumprod(h, 0) + h.sum(0)",
    ), shape="({b}, {n})", sizes={"b": (2, 4), "n": (1, 2)}, zeros=2, modes=BOTH),
    function("jnp.linalg.norm", "jnp.linalg.norm(h, {ord}, axis=-1)", options={"ord": (2, 1, "np.inf", 3)}, **VECTORS),
    function("jnp.take", "jnp.take(h, np.array([0, 1, 0]), axis=-1) ** 2", **VECTORS),
    function("jnp.ndarray.at.set", "h.at[:, 0].set(h[:, 1] ** 2)", **VECTORS),
    function("jnp.ndarray.at.multiply", "h.at[:, np.array([0, 1, 0])].multiply(h[:, :1])", **VECTORS),
    function("jnp.ndarray.at.max", "h.at[:, 0].max(h[:, 1])", **VECTORS),
    *functions("jnp", (
        "where(h > 0, h**2, h)", "clip(h, -0.5, 0.5)", "interp(h, np.linspace(-1, 1, 5), np.arange(5.0) ** 2)",
        "quantile(h, 0.3, axis=-1)", "convolve(h[0], jnp.sin(h[0]))", "einsum('ij,kj->ik', h, jnp.sin(h))",
    ), **VECTORS),
    function("jnp.power", "jnp.power(h + 2, h)", bounded=True, **VECTORS),
    *functions("jnp", ("arctan2(h, h + 2)", "hypot(h, h + 2)", "sinc", "logaddexp(h, h[:, ::-1] ** 2)"), **VECTORS),
    *functions("jax.lax", ("top_k(h, 2)[0]", "cummax", "cumlogsumexp"), **VECTORS),
    *(
        function(f"jax.ops.segment_{name}", f"jax.ops.segment_{name}(h, np.array([1, 0, 1]), 2)",
                 shape="(3, {n})", sizes={"n": (1, 3)}, zeros=2 if name == "prod" else 0)
        for name in ("sum", "prod", "max")
    ),
    *functions("jax.scipy.special", (
        "erf", "erfinv(h / 2)", "gammaln(h + 2)", "digamma(h + 2)", "ndtri((h + 2) / 4)", "i0e", "i1e",
        "xlogy(h + 2, h + 3)", "entr(h + 2)", "logit((h + 2) / 4)", "gammainc(jnp.exp(h), h + 2)",
        "betainc(h + 2, h + 3, (h + 2) / 4)", "zeta(h + 3, h + 2)", "polygamma(1, h + 2)",
    ), bounded=True, **VECTORS),
)  # fmt: skip

_BOUNDARIES = (
    *(
        function(f"{name}, at zero", f"{name}(h)", zeros=1, **VECTORS)
        for name in ("jnp.sinc", "jnp.expm1", "jnp.log1p",
                     *(f"jax.scipy.special.{name}" for name in ("i0", "i1", "erfinv")))
    ),
    function("jnp.power, at zero", "jnp.power(h, {power})", options={"power": (2, 3, 2.0)}, zeros=1, **VECTORS),
    *(
        function(f"jax.nn.{name}, a masked entry",
                 f"jnp.exp(jax.nn.{name}(jnp.where(np.arange({{n}}) == 0, -jnp.inf, h), -1))", **VECTORS)
        for name in ("softmax", "log_softmax", "logsumexp")
    ),
    function("jnp.prod, of nothing", "jnp.prod(h[:, :0], 1) + h.sum(1) ** 2", **VECTORS),
    function("jnp.linalg.pinv, rank one", "jnp.linalg.pinv(h[:, :1] @ h[:1], rtol=1e-10)", **MATRICES),
    function("jax.scipy.linalg.expm, at zero", "jax.scipy.linalg.expm(h)", zeros=3, **MATRICES),
)  # fmt: skip

_IMAGES = (
    function("jax.lax.conv_general_dilated",
             "jax.lax.conv_general_dilated(h, k, ({s}, {s}), '{pad}', rhs_dilation=({d}, {d}), "
             "dimension_numbers=('NHWC', 'HWIO', 'NHWC'))",
             arrays={"k": "(2, 2, {c}, 2)"}, options={"pad": ("VALID", "SAME"), "s": (1, 2), "d": (1, 2)}, **IMAGES),
    function("jax.lax.conv_transpose", "jax.lax.conv_transpose(h, k, (2, 2), '{pad}')",
             arrays={"k": "(2, 2, {c}, 2)"}, options={"pad": ("VALID", "SAME")}, **IMAGES),
    function("jax.lax.reduce_window, max",
             "3 * jax.lax.reduce_window({near}, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, {s}, {s}, 1), '{pad}')",
             options={"near": ("1 + 1e-3 * h", "h"), "s": (1, 2), "pad": ("VALID", "SAME")},
             dtypes={"jit": ("float32", "float64"), "eager": ("float64",)}, modes=BOTH, **IMAGES),
    function("jax.lax.reduce_window, add",
             "jax.lax.reduce_window(h, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 1, 1, 1), 'SAME')", **IMAGES),
    function("jax.lax.reduce_window, mul",
             "jax.lax.reduce_window(h, 1.0, jax.lax.mul, (1, 2, 2, 1), (1, 1, 1, 1), 'SAME')", **IMAGES),
    *(
        function(f"jax.image.resize, {method}", f"jax.image.resize(h, ({{b}}, {{s}}, {{s}}, {{c}}), '{method}')",
                 options={"s": (2, 4, 7)}, **IMAGES)
        for method in ("nearest", "linear", "cubic", "lanczos3")
    ),
    function("jax.scipy.ndimage.map_coordinates",
             "jax.scipy.ndimage.map_coordinates(h, [1 + jnp.sin(h[0]) / 2, 1 + h[1] / 2], order=1)",
             shape="({b}, {n})", sizes={"b": (3, 4), "n": (3, 4)}),
    function("jax.nn.dot_product_attention", "jax.nn.dot_product_attention(h, jnp.sin(h), h, is_causal={causal})",
             options={"causal": (False, True)}, shape="(1, {t}, 2, {n})", sizes={"t": (2, 3), "n": (1, 3)}),
    function("jax.lax.pad", "jax.lax.pad(h, 0.0, [(1, 1, 1), (0, 1, 0)])", **VECTORS),
    function("jnp.pad, reflect", "jnp.pad(h, ((0, 0), (1, 1)), mode='{mode}')",
             options={"mode": ("reflect", "symmetric", "wrap", "edge", "linear_ramp", "mean")}, **VECTORS),
)  # fmt: skip

_LINALG = (
    *functions("jnp.linalg", (
        f"cholesky({SYMMETRIC})", f"inv({SYMMETRIC})", f"pinv({SYMMETRIC})", f"det({SYMMETRIC})",
        f"slogdet({SYMMETRIC})[1]", f"eigh({SYMMETRIC})[0]", f"qr({SYMMETRIC})[1]",
    ), **MATRICES),
    function("jnp.linalg.det, singular", "jnp.linalg.det(h) + h", shape="({n}, {n})", sizes={"n": (2, 3)}, zeros=2),
    function("jnp.linalg.eigh, vectors", f"jnp.abs(jnp.linalg.eigh({SYMMETRIC})[1])", **MATRICES),
    function("jnp.linalg.svd", "jnp.linalg.svd(h + 2 * jnp.eye({n}))[1]", **MATRICES),
    function("jnp.linalg.svd, vectors", "jnp.abs(jnp.linalg.svd(h + 2 * jnp.eye({n}))[0])", **MATRICES),
    function("jnp.linalg.eig", f"jnp.linalg.eig({SYMMETRIC})[0].real", **MATRICES),
    function("jnp.linalg.solve", f"jnp.linalg.solve({SYMMETRIC}, h)", **MATRICES),
    function("jnp.linalg.lstsq", f"jnp.linalg.lstsq({SYMMETRIC}, h)[0]", **MATRICES),
    *functions("jax.scipy.linalg", (
        "expm", f"sqrtm({SYMMETRIC}).real", f"lu({SYMMETRIC})[2]", f"solve_triangular({SYMMETRIC}, h)",
    ), **MATRICES),
    function("jnp.fft.fft", "jnp.abs(jnp.fft.fft(h))", **VECTORS),
    *functions("jnp.fft", ("rfft(h).imag", "irfft(jnp.fft.rfft(h) ** 2)"), **VECTORS),
)  # fmt: skip

_CONTROL = (
    function("jax.lax.scan", "jax.lax.scan(lambda s, r: (jnp.tanh(s) * r, s), h[0], h)[0]", modes=BOTH, **VECTORS),
    function("jax.lax.associative_scan", "jax.lax.associative_scan(jnp.multiply, h)", **VECTORS),
    function("jax.lax.fori_loop", "jax.lax.fori_loop(0, 3, lambda i, s: jnp.sin(s) * s + h, h)", modes=BOTH, **VECTORS),
    function("jax.lax.while_loop",
             "jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1])), (0, h))[1]",
             modes=BOTH, **VECTORS),
    function("jax.lax.cond", "jax.lax.cond(h.sum() > 9, lambda: h, lambda: h**3)", **VECTORS),
    function("jax.lax.map", "jax.lax.map(lambda r: jnp.sin(r) * r, h)", **VECTORS),
    function("jax.vmap", "jax.vmap(lambda r: jnp.sin(r) * r.sum())(h)", **VECTORS),
    function("jax.checkpoint", "jax.checkpoint(lambda r: jnp.sin(r) * r)(h)", **VECTORS),
    function("jax.lax.custom_root",
             "jax.lax.custom_root(lambda y: y**3 + y - h, h, "
             "lambda f, y: jax.lax.fori_loop(0, 60, lambda i, y: y - (y**3 + y - h) / (3 * y**2 + 1), y), "
             "lambda g, y: y / g(jnp.ones_like(y)))", **VECTORS),
)  # fmt: skip

_SLICES = (
    *functions("jnp", (
        "take_along_axis(h, np.zeros(({b}, 1), int), 1) ** 2", "select([h > 0, h > -0.5], [h**2, h], jnp.sin(h))",
        "append(h, h**2)", "insert(h, 1, h[0, 0] ** 2)", "delete(h, 0, 1) ** 2", "polyval(h[0], h)", "vander(h[0])",
        "apply_along_axis(lambda r: r / r.sum(), 1, h + 3)", "correlate(h[0], jnp.sin(h[0]))",
        "tensordot(h, jnp.sin(h), ((1,), (1,)))", "broadcast_to(h, (2, {b}, {n})) ** 2", "reshape(h, -1) ** 2",
        "trapezoid(h, jnp.sin(h))", "polymul(h[0], jnp.sin(h[0]))",
        "piecewise(h, [h > 0], [jnp.square, jnp.sin])", "vectorize(lambda r: r / r.sum(), signature='(n)->(n)')(h + 3)",
    ), bounded=True, **VECTORS),
    *(
        function(f"jnp.ndarray.at.{call.partition('(')[0]}", f"h.at[:, np.array([0, 1, 0])].{call}", **VECTORS)
        for call in ("add(h[:, :1] ** 2)", "min(h[:, :1])", "get() ** 2", "power(2)", "divide(h[:, :1] + 3)",
                     "apply(jnp.sin)")
    ),
    *functions("jax.lax", (
        "dot_general(h, jnp.sin(h), (((1,), (1,)), ((), ())))", "batch_matmul(h[None], jnp.sin(h).T[None])",
        "dynamic_slice(h, (0, 1), ({b}, 1)) ** 2", "dynamic_update_slice(h, h[:1, :1] ** 2, (0, 1))",
        "dynamic_index_in_dim(h, 1, 1) ** 2", "dynamic_update_index_in_dim(h, h[:, 0] ** 2, 1, 1)",
        "slice_in_dim(h, 0, {n}, 2, axis=1) ** 2", "select(h > 0, h**2, h)", "select_n(h > 0, h, h**2)",
        "clamp(-0.5, h, 0.5)", "broadcast_in_dim(h, (2, {b}, {n}), (1, 2)) ** 2", "reduce(h, 0.0, jax.lax.add, (1,))",
        "sort_key_val(h[0], jnp.sin(h[0]) ** 2)[1]", "switch(1, [jnp.sin, lambda h: h**3], h)",
        "ragged_dot(h, jnp.sin(h).T[None], np.array([{b}]))", "integer_pow(h, 3)", "approx_max_k(h, 1)[0]",
        "custom_linear_solve(lambda y: 3 * y + y[::-1], h, lambda f, y: (3 * y - y[::-1]) / 8, symmetric=True)",
    ), **VECTORS),
    *functions("jax.lax", ("reduce_max(h, (0,))", "reduce_min(h, (0,))", "cummin", "cumsum"), **VECTORS),
    *functions("jax.lax", ("reduce_prod(h, (0,)) + h.sum(0)", "cumprod(h) + h"),
               shape="({b}, {n})", sizes={"b": (2, 4), "n": (1, 2)}, zeros=2),
    function("jax.lax.conv_general_dilated_patches",
             "jax.lax.conv_general_dilated_patches(h, (2, 2), (1, 1), 'VALID', "
             "dimension_numbers=('NHWC', 'HWIO', 'NHWC')) ** 2", **IMAGES),
    function("jax.image.scale_and_translate",
             "jax.image.scale_and_translate(h, (4, 4), (0, 1), jnp.array([1.5, 1.2]), jnp.array([0.1, 0.3]), 'linear')",
             shape="({n}, {n})", sizes={"n": (2, 4)}),
    function("jax.ops.segment_min", "jax.ops.segment_min(h, np.array([1, 0, 1]), 2)",
             shape="(3, {n})", sizes={"n": (1, 3)}),
)  # fmt: skip

_SCIPY = (
    *functions("jax.scipy.special", (
        "multigammaln(h + 3, 2)", "expn(2, h + 2)", "hyp1f1(h + 2, h + 3, h)", "hyp2f1(h + 2, h + 3, h + 4, h / 3)",
        "gammaincc(jnp.exp(h), h + 2)", "boxcox(h + 2, h)", "poch(h + 2, h + 3)", "bessel_jn(h + 2, v=2)[1]",
    ), bounded=True, **VECTORS),
    *functions("jax.scipy.linalg", (
        f"cho_solve((jnp.linalg.cholesky({SYMMETRIC}), True), h)",
        f"lu_solve(jax.scipy.linalg.lu_factor({SYMMETRIC}), h)", f"solve_sylvester({SYMMETRIC}, {SYMMETRIC}, h)",
        "expm_frechet(h, jnp.sin(h))[1]", f"qr({SYMMETRIC})[0]", f"eigh({SYMMETRIC})[0]", "block_diag(h, h**2)",
        f"solve({SYMMETRIC}, h, assume_a='pos')", "polar(h + 3 * jnp.eye({n}))[0]", "toeplitz(h[0], h[1])",
    ), **MATRICES),
    *functions("jax.lax.linalg", (
        f"cholesky({SYMMETRIC})", f"eigh({SYMMETRIC})[1]", f"lu({SYMMETRIC})[0]", f"qr({SYMMETRIC})[1]",
        f"svd({SYMMETRIC})[0]", f"triangular_solve({SYMMETRIC}, h, left_side=True, lower=True)",
        f"householder_product({SYMMETRIC}, h[0] / 2)", f"symmetric_product(h, {SYMMETRIC}, symmetrize_output=True)",
        "tridiagonal_solve(h[0].at[0].set(0), h[1] + 5, h[0].at[-1].set(0), h)",
    ), **MATRICES),
    *functions("jnp.linalg", (
        "multi_dot([h, jnp.sin(h), h])", "matrix_power(h, 3)", "tensorsolve(h + 3 * jnp.eye({n}), jnp.sin(h[0]))",
        f"cond({SYMMETRIC})", f"matrix_norm({SYMMETRIC}, ord={{ord}})",
    ), options={"ord": ("'fro'", "'nuc'", "2", "1", "-2")}, **MATRICES),
    function("jnp.linalg.svd of a low rank", "jnp.linalg.svd(h[:, :1] @ h[:1], compute_uv=False)[:1]", **MATRICES),
    function("jnp.linalg.cross", "jnp.linalg.cross(h, jnp.sin(h))", shape="({b}, 3)", sizes={"b": (1, 2)}),
    *functions("jax.scipy.fft", ("dct", "idct", "dctn", "idctn"), **VECTORS),
    *functions("jnp.fft", ("ifft(h).imag", "hfft(h)", "ihfft(h).real", "fftn(h).real", "irfftn(h)",
                           "rfftn(h).real"), **VECTORS),
    *functions("jax.scipy.signal", (
        "fftconvolve(h, jnp.sin(h))", "convolve(h, jnp.sin(h))", "correlate(h, jnp.sin(h))", "detrend",
    ), **VECTORS),
)  # fmt: skip

_STATS = tuple(
    function(f"jax.scipy.stats.{call.partition('(')[0]}", f"jax.scipy.stats.{call}", bounded=True, **VECTORS)
    for call in (
        *(f"norm.{name}(h, h**2, jnp.exp(h))" for name in ("logpdf", "pdf", "cdf", "logcdf", "sf", "logsf")),
        "norm.ppf((h + 2) / 4, h, jnp.exp(h))",
        *(f"beta.{name}((h + 2) / 4, h + 2, h + 3)" for name in ("logpdf", "cdf")),
        *(f"gamma.{name}(h + 2, h + 3)" for name in ("logpdf", "cdf", "logsf")),
        *(f"t.{name}(h, h + 3)" for name in ("logpdf", "pdf")),
        *(f"logistic.{name}(h, h**2)" for name in ("logpdf", "cdf", "sf")),
        *(f"laplace.{name}(h + 3, h**2)" for name in ("logpdf", "cdf")),
        *(f"cauchy.{name}(h, h**2)" for name in ("logpdf", "cdf")),
        *(f"truncnorm.{name}(h, -2.0, h + 3)" for name in ("logpdf", "cdf", "logcdf", "logsf")),
        *(f"chi2.{name}(h + 2, h + 3)" for name in ("logpdf", "cdf")),
        *(f"pareto.{name}(h + 3, h + 2)" for name in ("logpdf", "cdf")),
        "expon.logpdf(h + 2, h / 3)", "gumbel_r.logpdf(h, h**2)", "vonmises.logpdf(h, h + 2)",
        "gennorm.logpdf(h + 3, h + 2)", "wrapcauchy.logpdf(h + 2, (h + 2) / 4)", "poisson.logpmf(2, h + 2)",
        "nbinom.logpmf(2, h + 2, (h + 2) / 4)", "binom.logpmf(2, 3, (h + 2) / 4)", "bernoulli.logpmf(1, (h + 2) / 4)",
        "geom.logpmf(2, (h + 2) / 4)", "betabinom.logpmf(2, 3, h + 2, h + 3)",
        "dirichlet.logpdf(jax.nn.softmax(h[0]), h[0] + 2)",
        "multivariate_normal.logpdf(h, h[0], h.T @ h + 2 * jnp.eye({n}))",
        "gaussian_kde(h.reshape(1, -1)).logpdf(jnp.sin(h[:1]))",
    )
)  # fmt: skip

OPERATIONS = (
    *_ACTIVATIONS, *_ARRAYS, *_BOUNDARIES, *_IMAGES, *_LINALG, *_CONTROL, *_SLICES, *_SCIPY, *_STATS,
)  # fmt: skip
"""In the order of the report."""
