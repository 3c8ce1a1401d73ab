"""The operations and layers of TensorFlow and Keras that users' models are made of."""

from typing import Any

from gradreg_sweep.operation import VECTORS, Operation, function, functions

__all__ = ["OPERATIONS"]

SEQUENCES: dict[str, Any] = {"shape": "({b}, {t}, {n})", "sizes": {"b": (1, 2), "t": (2, 4), "n": (1, 3)}}
IMAGES: dict[str, Any] = {"shape": "({b}, {r}, {r}, {c})", "sizes": {"b": (1, 2), "r": (3, 5), "c": (1, 2)}}
VOLUMES: dict[str, Any] = {"shape": "(1, {r}, {r}, {r}, {c})", "sizes": {"r": (2, 4), "c": (1, 2)}}
MATRICES: dict[str, Any] = {"shape": "({b}, {n}, {n})", "sizes": {"b": (1, 2), "n": (2, 3)}}
SYMMETRIC = "tf.linalg.matmul(h, h, transpose_b=True) + 2 * tf.eye({n}, dtype=h.dtype)"
FAST = ("eager", "function", "xla")
SINGLE = {"xla": ("float32",)}


def layer(name: str, arguments: str = "", call: str = "layer(h)", **more: Any) -> Operation:
    """A Keras layer with variables of its own dtype."""
    listed = f'{arguments}, dtype="{{dtype}}"' if arguments else 'dtype="{dtype}"'
    return Operation(f"tf.keras.layers.{name}", call, setup=f"layer = tf.keras.layers.{name}({listed})", **more)


_ACTIVATIONS = (
    *(
        function(f"tf.nn.{name}", **VECTORS, modes=FAST if name in ("relu", "gelu") else None)
        for name in ("relu", "relu6", "elu", "selu", "gelu", "silu", "softplus", "sigmoid", "tanh", "crelu")
    ),
    *functions("tf.nn", ("softsign", "leaky_relu"), **VECTORS),
    function("tf.nn.gelu, approximate", "tf.nn.gelu(h, approximate=True)", **VECTORS),
    *functions("tf.keras.activations", (
        "mish", "hard_sigmoid", "hard_silu", "hard_tanh", "exponential", "celu", "log_sigmoid", "squareplus",
        "sparse_plus", "tanh_shrink", "soft_shrink", "hard_shrink", "sparsemax", "sparse_sigmoid",
    ), **VECTORS),
    function("tf.keras.activations.glu", "tf.keras.activations.glu(h)", shape="({b}, 2 * {n})"),
    layer("PReLU", **VECTORS),
    function("tf.nn.softmax", **VECTORS, modes=FAST),
    function("tf.nn.log_softmax", **VECTORS),
    function("tf.reduce_logsumexp", "tf.reduce_logsumexp(h, -1)", **VECTORS),
)  # fmt: skip

_NORMS = (
    layer("LayerNormalization", **VECTORS, modes=FAST),
    function(
        "tf.keras.layers.LayerNormalization of images", "layer(h)",
        setup='layer = tf.keras.layers.LayerNormalization(axis={axis}, dtype="{dtype}")',
        options={"axis": (-1, (1, 2, 3))}, **IMAGES,
    ),
    layer("RMSNormalization", **VECTORS),
    layer("UnitNormalization", **VECTORS),
    layer("GroupNormalization", "groups={g}", options={"g": (1, 2)}, shape="({b}, 2 * {n})"),
    layer("BatchNormalization", call="layer(h, training=True)", shape="({b}, {n})",
          sizes={"b": (2, 4), "n": (1, 3)}, modes=FAST),
    function("tf.keras.layers.BatchNormalization, not training", "layer(h, training=False)",
             setup='layer = tf.keras.layers.BatchNormalization(dtype="{dtype}")', **VECTORS),
    function("tf.keras.layers.BatchNormalization of images", "layer(h, training=True)",
             setup='layer = tf.keras.layers.BatchNormalization(dtype="{dtype}")', **IMAGES),
    function("tf.compat.v1.nn.fused_batch_norm",
             'tf.compat.v1.nn.fused_batch_norm(tf.cast(h, "float32"), tf.ones({c}), tf.zeros({c}))[0]', **IMAGES),
    function("tf.nn.moments", "tf.concat(tf.nn.moments(h, [-1]), 0)", **VECTORS, modes=FAST),
    function("tf.nn.weighted_moments", "tf.concat(tf.nn.weighted_moments(h, [-1], tf.abs(h[:1]) + 1), 0)", **VECTORS),
    function("tf.keras.ops.moments", "tf.concat(tf.keras.ops.moments(h, [-1]), 0)", **VECTORS),
    *functions("tf.math", ("reduce_variance(h, -1)", "reduce_std(h, -1)"), **VECTORS),
    function("tf.nn.l2_normalize", "tf.nn.l2_normalize(h, -1)", **VECTORS),
    function("tf.norm", "tf.norm(h, axis=-1, ord={ord})", options={"ord": (2, 1, "np.inf", 3)}, **VECTORS),
    function("tf.nn.local_response_normalization", "tf.nn.local_response_normalization({cast}, 1)",
             options={"cast": ("tf.cast(h, 'float32')",)}, **IMAGES),
    function("tf.clip_by_norm", "tf.clip_by_norm(h, 0.5)", **VECTORS),
)  # fmt: skip

_POOLS = (
    function("tf.nn.max_pool2d", "3 * tf.nn.max_pool2d({near}, {k}, {s}, '{pad}')",
             options={"near": ("1 + 1e-3 * h", "h"), "k": (2, 3), "s": (1, 2), "pad": ("VALID", "SAME")},
             dtypes={"xla": ("float32", "float64")}, modes=FAST, **IMAGES),
    *(
        layer(f"{kind}Pooling{rank}D", **shape, **more)
        for rank, shape in ((1, SEQUENCES), (2, IMAGES), (3, VOLUMES))
        for kind, more in (
            ("Max", {"arguments": "2"}), ("Average", {"arguments": "2"}), ("GlobalMax", {}), ("GlobalAverage", {}),
        )
        if rank < 3 or kind.startswith("Global")
    ),
    *(
        # These lack float64 kernels on a CPU.
        function(f"tf.keras.layers.{kind}Pooling3D", "layer(tf.cast(h, 'float32'))",
                 setup=f"layer = tf.keras.layers.{kind}Pooling3D(2)", **VOLUMES)
        for kind in ("Max", "Average")
    ),
    layer("AdaptiveAveragePooling2D", "2", **IMAGES),
    layer("AdaptiveMaxPooling2D", "2", **IMAGES),
    function("tf.nn.max_pool_with_argmax", "tf.nn.max_pool_with_argmax(h, 2, 1, 'VALID')[0]", **IMAGES),
    function("tf.nn.fractional_max_pool", "tf.nn.fractional_max_pool(h, [1, 1.4, 1.4, 1], seed=1)[0]", **IMAGES),
    function("tf.nn.fractional_avg_pool", "tf.nn.fractional_avg_pool(h, [1, 1.4, 1.4, 1], seed=1)[0]", **IMAGES),
    function("tf.nn.dilation2d", "tf.nn.dilation2d(h, k, [1, 1, 1, 1], 'VALID', 'NHWC', [1, 1, 1, 1])",
             arrays={"k": "(2, 2, {c})"}, **IMAGES),
    function("tf.nn.erosion2d", "tf.nn.erosion2d(h, k, [1, 1, 1, 1], 'VALID', 'NHWC', [1, 1, 1, 1])",
             arrays={"k": "(2, 2, {c})"}, **IMAGES),
)  # fmt: skip

_LINEAR = (
    layer("Dense", "3", **VECTORS, modes=FAST),
    layer("EinsumDense", "'bn,nm->bm', 2", **VECTORS),
    layer("Conv1D", "2, 2, padding='{pad}'", options={"pad": ("valid", "same", "causal")}, **SEQUENCES),
    layer("Conv2D", "2, 2, padding='{pad}', strides={s}", options={"pad": ("valid", "same"), "s": (1, 2)}, **IMAGES),
    layer("Conv3D", "2, 2", **VOLUMES),
    layer("Conv1DTranspose", "2, 2, strides={s}", options={"s": (1, 2)}, **SEQUENCES),
    layer("Conv2DTranspose", "2, 2, strides={s}, padding='{pad}'",
          options={"pad": ("valid", "same"), "s": (1, 2)}, **IMAGES),
    layer("Conv3DTranspose", "1, 2", **VOLUMES),
    layer("DepthwiseConv1D", "2", **SEQUENCES),
    layer("DepthwiseConv2D", "2, strides={s}", options={"s": (1, 2)}, **IMAGES),
    layer("SeparableConv1D", "2, 2", **SEQUENCES),
    layer("SeparableConv2D", "2, 2", **IMAGES),
    function("tf.nn.conv2d", "tf.nn.conv2d(h, k, 1, '{pad}')",
             arrays={"k": "(2, 2, {c}, 2)"}, options={"pad": ("VALID", "SAME")}, modes=FAST, **IMAGES),
    function("tf.nn.conv2d, dilated", "tf.nn.conv2d(h, k, 1, 'VALID', dilations=2)",
             arrays={"k": "(2, 2, {c}, 2)"}, **IMAGES),
    function("tf.einsum", "tf.einsum('bij,bkj->bik', h, tf.sin(h))", **MATRICES),
)  # fmt: skip

_ATTENTION = (
    layer("MultiHeadAttention", "2, 2", "layer(h, h)", **SEQUENCES),
    layer("GroupQueryAttention", "2, 2, 1", "layer(h, h)", **SEQUENCES),
    layer("Attention", "", "layer([h, tf.sin(h)])", **SEQUENCES),
    layer("AdditiveAttention", "", "layer([h, tf.sin(h)])", **SEQUENCES),
    layer("LSTM", "2", **SEQUENCES),
    layer("GRU", "2, reset_after={reset}", options={"reset": (True, False)}, **SEQUENCES),
    layer("SimpleRNN", "2", **SEQUENCES),
    function("tf.keras.layers.Bidirectional", "layer(h)", **SEQUENCES,
             setup='layer = tf.keras.layers.Bidirectional(tf.keras.layers.LSTM(2, dtype="{dtype}"), dtype="{dtype}")'),
    layer("ConvLSTM1D", "1, 2", "layer(h[..., None])", **SEQUENCES),
)  # fmt: skip

_RESIZES = (
    *(
        function(f"tf.image.resize, {method}",
                 f"tf.image.resize({{cast}}, ({{s}}, {{s}}), '{method}', antialias={{antialias}})",
                 options={"s": (2, 4, 7), "antialias": (False, True), "cast": ("tf.cast(h, 'float32')",)}, **IMAGES)
        for method in ("bilinear", "nearest", "bicubic", "lanczos3", "gaussian", "area")
    ),
    *(
        function(f"tf.keras.layers.UpSampling2D, {method}", "layer(h)", **IMAGES,
                 setup=f"layer = tf.keras.layers.UpSampling2D(2, interpolation='{method}', dtype=\"{{dtype}}\")")
        for method in ("nearest", "bilinear", "bicubic")
    ),
    layer("Resizing", "4, 4", **IMAGES),
    function("tf.image.crop_and_resize", "tf.image.crop_and_resize({cast}, [[0.1, 0.1, 0.8, 0.9]], [0], (3, 3))",
             options={"cast": ("h",)}, **IMAGES),
    layer("UpSampling1D", "2", **SEQUENCES),
    layer("ZeroPadding2D", "1", **IMAGES),
    function("tf.pad, reflect", "tf.pad(h, [[0, 0], [1, 1]], '{pad}')",
             options={"pad": ("REFLECT", "SYMMETRIC", "CONSTANT")}, **VECTORS),
    function("tf.nn.depth_to_space", "tf.nn.depth_to_space(h, 2)", shape="(1, {r}, {r}, 4)", sizes={"r": (1, 3)}),
    *functions("tf.image", ("extract_patches(h, [1, 2, 2, 1], [1, 1, 1, 1], [1, 1, 1, 1], 'VALID')",), **IMAGES),
)  # fmt: skip

_LOSSES = (
    *functions("tf.keras.losses", (
        "mse(tf.zeros_like(h), h)", "mae(tf.zeros_like(h), h)", "huber(tf.zeros_like(h), 3 * h)",
        "logcosh(tf.zeros_like(h), h)", "cosine_similarity(tf.ones_like(h), h)",
        "kld(tf.ones_like(h) / 4, tf.nn.softmax(h))", "poisson(tf.ones_like(h), tf.exp(h))",
        "hinge(tf.ones_like(h), h)", "binary_crossentropy(tf.ones_like(h) / 4, tf.sigmoid(h))",
        "binary_focal_crossentropy(tf.ones_like(h), tf.sigmoid(h))",
        "categorical_crossentropy(tf.nn.softmax(tf.ones_like(h)), tf.nn.softmax(h))",
        "dice(tf.ones_like(h) / 2, tf.sigmoid(h))", "tversky(tf.ones_like(h) / 2, tf.sigmoid(h))",
    ), **VECTORS),
    function("tf.keras.losses.sparse_categorical_crossentropy",
             "tf.keras.losses.sparse_categorical_crossentropy(np.arange({b}) % {n}, h, from_logits={logits})",
             options={"logits": (True,)}, **VECTORS),
    function("tf.nn.sparse_softmax_cross_entropy_with_logits",
             "tf.nn.sparse_softmax_cross_entropy_with_logits(np.arange({b}) % {n}, h)", **VECTORS),
    function("tf.nn.softmax_cross_entropy_with_logits",
             "tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(tf.ones_like(h)), h)", **VECTORS),
    function("tf.nn.softmax_cross_entropy_with_logits, labels of the model",
             "tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(h[:, ::-1]), h)", **VECTORS),
    function("tf.nn.sigmoid_cross_entropy_with_logits",
             "tf.nn.sigmoid_cross_entropy_with_logits(tf.ones_like(h) / 4, h)", **VECTORS),
    function("tf.nn.weighted_cross_entropy_with_logits",
             "tf.nn.weighted_cross_entropy_with_logits(tf.ones_like(h) / 4, h, 2.0)", **VECTORS),
    function("tf.nn.ctc_loss", "tf.nn.ctc_loss([[1]], tf.cast(h[:, None], 'float32'), [1], [{t}], blank_index=0)",
             shape="({t}, {n})", sizes={"t": (2, 4), "n": (2, 3)}),
    function("tf.keras.losses.ctc",
             "tf.keras.losses.ctc(np.ones((1, 1), 'int32'), h[None])", shape="({t}, {n})",
             sizes={"t": (3, 4), "n": (2, 3)}),
)  # fmt: skip

_REDUCTIONS = (
    function("tf.reduce_prod", "tf.reduce_prod(h, 0) + tf.reduce_sum(h, 0)",
             shape="({b}, {n})", sizes={"b": (2, 4), "n": (1, 2)}, zeros=2, modes=FAST),
    function("tf.math.cumprod", "tf.math.cumprod(h, 0, exclusive={ex}) + h", options={"ex": (False, True)},
             shape="({b}, {n})", sizes={"b": (2, 4), "n": (1, 2)}, zeros=2, modes=FAST),
    *functions("tf.math", ("cumsum(h, -1) * h", "cumulative_logsumexp(h, -1)"), **VECTORS),
    function("tf.reduce_max", "tf.reduce_max(h, -1)", **VECTORS, modes=FAST),
    function("tf.reduce_euclidean_norm", "tf.math.reduce_euclidean_norm(h, -1)", **VECTORS),
    function("tf.sort", "tf.sort(h, -1) * tf.constant(range(1, {n} + 1), h.dtype)", **VECTORS),
    function("tf.math.top_k", "tf.math.top_k(h, 2)[0]", **VECTORS),
    function("tf.gather", "tf.gather(h, [0, 1, 0], axis=-1) ** 2", **VECTORS),
    function("tf.gather_nd", "tf.gather_nd(h, [[0, 1], [0, 0]]) ** 2", **VECTORS),
    function("tf.where", "tf.where(h > 0, h ** 2, h)", **VECTORS),
    function("tf.boolean_mask", "tf.boolean_mask(h, np.arange({n}) > 0, axis=1) ** 2", **VECTORS),
    *functions("tf.math", (
        "segment_sum(h, [0, 0, 1])", "segment_mean(h, [0, 0, 1])", "segment_prod(h, [0, 0, 1])",
        "segment_max(h, [0, 0, 1])",
    ), shape="(3, {n})", sizes={"n": (1, 3)}),
    *(
        function(f"tf.math.unsorted_segment_{name}", f"tf.math.unsorted_segment_{name}(h, [1, 0, 1], 2)",
                 shape="(3, {n})", sizes={"n": (1, 3)}, zeros=2 if name == "prod" else 0)
        for name in ("sum", "mean", "prod", "max", "sqrt_n")
    ),
    function("tf.scatter_nd", "tf.scatter_nd([[1], [0]], h[0, :2] ** 2, [3])", **VECTORS),
    function("tf.tensor_scatter_nd_max", "tf.tensor_scatter_nd_max(h[0], [[1]], h[0, :1])", **VECTORS),
    function("tf.math.xlogy", "tf.math.xlogy(h, tf.exp(h) + 1)", **VECTORS),
    function("tf.math.squared_difference", "tf.math.squared_difference(h, h[:, ::-1])", **VECTORS),
    function("tf.math.divide_no_nan", "tf.math.divide_no_nan(h, h + 2)", **VECTORS),
    function("tf.clip_by_value", "tf.clip_by_value(h, -0.5, 0.5)", **VECTORS),
    *functions("tf.math", (
        "lgamma(h + 2)", "digamma(h + 2)", "erf", "erfinv(h / 2)", "ndtri((h + 2) / 4)", "bessel_i0e", "bessel_i1e",
        "atan2(h, h + 2)", "pow(h + 2, h)", "expm1", "asinh", "acosh(h + 3)", "atanh(h / 2)",
        "igamma(tf.exp(h), h + 2)", "betainc(tf.exp(h), tf.exp(-h), (h + 2) / 4)", "zeta(h + 3, h + 2)",
        "polygamma(h * 0 + 1, h + 2)",
    ), bounded=True, **VECTORS),
)  # fmt: skip

_BOUNDARIES = (
    *(
        function(f"tf.{name}, at zero", f"tf.{name}(h)", zeros=1, **VECTORS)
        for name in ("math.bessel_i0", "math.bessel_i1", "math.expm1",
                     "math.log1p", "math.erfinv", "math.tan", "keras.ops.sinc")
    ),
    function("tf.pow, at zero", "tf.pow(h, {power})", options={"power": ("2.0", "3.0")}, zeros=1, **VECTORS),
    *(
        function(f"tf.{name}, a masked entry",
                 f"tf.exp(tf.{name}(tf.where(np.arange({{n}}) == 0, tf.constant(-np.inf, h.dtype), h), -1))", **VECTORS)
        for name in ("nn.softmax", "nn.log_softmax", "reduce_logsumexp")
    ),
    function("tf.reduce_prod, of nothing", "tf.reduce_prod(h[:, :0], 1) + tf.reduce_sum(h, 1) ** 2", **VECTORS),
    function("tf.linalg.expm, at zero", "tf.linalg.expm(h)", shape="({n}, {n})", sizes={"n": (2, 3)}, zeros=3),
)  # fmt: skip

_LINALG = (
    *functions("tf.linalg", (
        f"cholesky({SYMMETRIC})", f"inv({SYMMETRIC})", f"pinv({SYMMETRIC})", f"det({SYMMETRIC})",
        f"slogdet({SYMMETRIC})[1]", f"logdet({SYMMETRIC})", f"solve({SYMMETRIC}, h)",
        f"triangular_solve({SYMMETRIC}, h)", f"lstsq({SYMMETRIC}, h)", f"eigh({SYMMETRIC})[0]",
    ), **MATRICES),
    function("tf.linalg.eigh, vectors", f"tf.abs(tf.linalg.eigh({SYMMETRIC})[1])", **MATRICES),
    function("tf.linalg.svd", "tf.linalg.svd(h + 2 * tf.eye({n}, dtype=h.dtype))[0]", **MATRICES),
    function("tf.linalg.svd, values alone", "tf.linalg.svd(h + 2 * tf.eye({n}, dtype=h.dtype), compute_uv=False)",
             **MATRICES),
    function("tf.linalg.qr", f"tf.abs(tf.linalg.qr({SYMMETRIC})[1])", **MATRICES),
    *functions("tf.linalg", (f"lu({SYMMETRIC})[0]", "expm"), **MATRICES),
    function("tf.linalg.logm", f"tf.math.real(tf.linalg.logm(tf.cast({SYMMETRIC}, 'complex128')))", **MATRICES),
    *functions("tf.linalg", (f"sqrtm({SYMMETRIC})", "trace(h @ h)"), **MATRICES),
    function("tf.signal.fft", "tf.abs(tf.signal.fft(tf.cast(h, 'complex128')))", **VECTORS),
    function("tf.signal.rfft", "tf.math.imag(tf.signal.rfft(h))", **VECTORS),
    function("tf.signal.irfft", "tf.signal.irfft(tf.signal.rfft(h) ** 2)", **VECTORS),
    function("tf.signal.fft2d", "tf.math.real(tf.signal.fft2d(tf.cast(h, 'complex128')) ** 2)", **MATRICES),
    function("tf.signal.dct", "tf.signal.dct({cast})", options={"cast": ("h",)}, **VECTORS),
)  # fmt: skip

_CONTROL = (
    function("tf.map_fn", "tf.map_fn(lambda r: tf.sin(r) * r, h)", **VECTORS, modes=FAST),
    *functions("tf", ("vectorized_map(lambda r: tf.sin(r) * r, h)", "scan(lambda s, r: tf.tanh(s) * r, h)"), **VECTORS),
    function("tf.while_loop",
             "tf.while_loop(lambda i, s: i < 3, lambda i, s: (i + 1, tf.sin(s) * s + h), (0, h))[1]",
             **VECTORS, modes=FAST),
    function("tf.cond", "tf.cond(tf.reduce_sum(h) > 9, lambda: h, lambda: h ** 3)", **VECTORS, modes=FAST),
    function("tf.identity, used twice", "(lambda m: m * m * m)(tf.identity(h))", **VECTORS),
    function("tf.recompute_grad", "tf.recompute_grad(lambda r: tf.sin(r) * r)(h)", **VECTORS),
    function("tf.nn.embedding_lookup", "tf.nn.embedding_lookup(h, [0, 0]) ** 2", **VECTORS),
    function("tf.keras.layers.Dropout, not training", "layer(h)", **VECTORS,
             setup='layer = tf.keras.layers.Dropout(0.5, dtype="{dtype}")'),
)  # fmt: skip

OPERATIONS = (
    *_ACTIVATIONS, *_NORMS, *_POOLS, *_LINEAR, *_ATTENTION, *_RESIZES, *_LOSSES, *_REDUCTIONS, *_BOUNDARIES,
    *_LINALG, *_CONTROL,
)  # fmt: skip
"""In the order of the report."""
