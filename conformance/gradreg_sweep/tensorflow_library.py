"""More of TensorFlow and Keras, with arguments that no pattern fits: layers, images, signals, matrices."""

from typing import Any

from gradreg_sweep.operation import VECTORS, function, functions
from gradreg_sweep.tensorflow_ops import IMAGES, MATRICES, SEQUENCES, SYMMETRIC, VOLUMES, layer

__all__ = ["LIBRARY"]

COLOURS: dict[str, Any] = {"shape": "({b}, {r}, {r}, 3)", "sizes": {"b": (1, 2), "r": (2, 3)}}
SPREAD = "3 * h + tf.range(1.0, {n} + 1, dtype=h.dtype)"
"""Rows with distinct entries, far from ties."""

_KERAS_LAYERS = (
    *(
        layer(name, arguments, **VECTORS)
        for name, arguments in (
            ("ReLU", "negative_slope=0.1"), ("LeakyReLU", ""), ("ELU", ""), ("Softmax", ""), ("Flatten", ""),
            ("RepeatVector", "3"), ("Activation", "'tanh'"), ("Rescaling", "2.0, 1.0"),
            ("Normalization", "mean=0.5, variance=2.0"),
        )
    ),
    *(
        layer(name, arguments, "layer([h, tf.sin(h) + 0.5])", **VECTORS)
        for name, arguments in (
            ("Add", ""), ("Subtract", ""), ("Multiply", ""), ("Average", ""), ("Maximum", ""), ("Minimum", ""),
            ("Concatenate", ""), ("Dot", "1, normalize=True"),
        )
    ),
    *(
        layer(name, arguments, **SEQUENCES)
        for name, arguments in (
            ("Permute", "(2, 1)"), ("Reshape", "(-1,)"), ("Cropping1D", "(0, 1)"), ("ZeroPadding1D", "1"),
            ("AdaptiveAveragePooling1D", "2"), ("AdaptiveMaxPooling1D", "2"), ("Masking", "0.0"),
        )
    ),
    *(
        layer(name, arguments, **IMAGES)
        for name, arguments in (
            ("Cropping2D", "((0, 1), (1, 0))"), ("CenterCrop", "2, 2"),
        )
    ),
    *(
        layer(name, arguments, **VOLUMES)
        for name, arguments in (
            ("Cropping3D", "((0, 1), (1, 0), (0, 1))"), ("ZeroPadding3D", "1"), ("UpSampling3D", "2"),

        )
    ),
    function("tf.keras.layers.TimeDistributed", "layer(h)", **SEQUENCES,
             setup='layer = tf.keras.layers.TimeDistributed(tf.keras.layers.Dense(2, dtype="{dtype}"), '
                   'dtype="{dtype}")'),
    *(
        function(f"tf.keras.layers.RNN of {cell}", "layer(h)", **SEQUENCES,
                 setup=f'layer = tf.keras.layers.RNN(tf.keras.layers.{cell}(2, dtype="{{dtype}}"), '
                       'return_sequences=True, dtype="{dtype}")')
        for cell in ("LSTMCell", "GRUCell", "SimpleRNNCell")
    ),
    function("tf.keras.layers.SpectralNormalization", "layer(h, training=False)", **VECTORS,
             setup='layer = tf.keras.layers.SpectralNormalization(tf.keras.layers.Dense(2, dtype="{dtype}"), '
                   'dtype="{dtype}")'),
    layer("ConvLSTM2D", "1, 2", "layer(h[:, None])", **IMAGES),
)  # fmt: skip

_KERAS_OPS = (
    *functions("tf.keras.ops", (
        "segment_sum(h, tf.constant([0] * {b}), 1) ** 2", "take_along_axis(h, np.zeros(({b}, 1), int), 1) ** 2",
        "slice(h, (0, 1), ({b}, 1)) ** 2", "slice_update(h, (0, 1), h[:, :1] ** 2)",
        "scatter_update(h, [[0, 0]], h[0, 1:2] ** 2)", "scatter([[1]], h[:1] ** 2, (3, {n}))",
        "where(h > 0, h ** 2, h)",
        "clip(h, -0.5, 0.5)", "select([h > 0], [h ** 2], h)", "cond(h[0, 0] > 9, lambda: h, lambda: h ** 3)",
        "vectorized_map(lambda r: tf.sin(r) + r ** 2, h)", "map(lambda r: tf.sin(r) * r, h)",
        "scan(lambda s, r: (tf.tanh(s) * r, s), h[0], h)[0]", "associative_scan(lambda a, b: a * b, h)",
        "fori_loop(0, 3, lambda i, s: tf.sin(s) + h, h)",
        "while_loop(lambda i, s: i < 3, lambda i, s: (i + 1, tf.sin(s) + h), (0, h))[1]",
        "switch(1, [tf.sin, lambda h: h ** 3], h)", "repeat(h, 2, axis=1) ** 2", "tile(h, (2, 1)) ** 2",
        "reshape(h, (-1,)) ** 2", "transpose(h) ** 2", "pad(h, ((0, 0), (1, 1)), 'reflect') ** 2",
        "binary_crossentropy(tf.ones_like(h) / 4, tf.sigmoid(h))", "quantile(h, 0.3, axis=-1)", "median(h, axis=-1)",
        "categorical_crossentropy(tf.nn.softmax(tf.ones_like(h)), tf.nn.softmax(h))", "fft((h, tf.sin(h)))[1]",
        "irfft((h, tf.sin(h)))", "layer_normalization(h)", "rms_normalization(h)", "normalize(h, order=3)",
        "batch_normalization(h, h[0], tf.exp(h[0]), -1)", "take(h, [0, 1, 0], axis=1) ** 2", "max(h, axis=-1)",
        "sort(h, axis=-1) * tf.range(1.0, {n} + 1, dtype=h.dtype)", "std(h, axis=-1)", "logsumexp(h, axis=-1)",
        "sparse_categorical_crossentropy(np.arange({b}) % {n}, h, from_logits=True)",
    ), bounded=True, **VECTORS),
    *functions("tf.keras.ops", ("average_pool(h, 2)", "max_pool(h, 2, 1)", "adaptive_average_pool(h, 2)"),
               **IMAGES),
    *functions("tf.keras.ops", ("conv(h, k, 1, 'same')", "conv_transpose(h, k, 2)"),
               arrays={"k": "(2, 2, {c}, {c})"}, **IMAGES),
    *functions("tf.keras.ops", ("einsum('bn,nm->bm', h, k)", "tensordot(h, k, 1)", "matmul(h, k)", "dot(h, k)",
                                "inner(h, tf.transpose(k))", "outer(h[0], k[0])", "kron(h, k)"),
               arrays={"k": "({n}, 2)"}, **VECTORS),
    function("tf.tensordot", "tf.tensordot(h, k, 1)", arrays={"k": "({n}, 2)"}, **VECTORS),
    function("tf.keras.ops.depthwise_conv", "tf.keras.ops.depthwise_conv(h, k, 1)",
             arrays={"k": "(2, 2, {c}, 1)"}, **IMAGES),
    function("tf.keras.ops.dot_product_attention",
             "tf.keras.ops.dot_product_attention(h[:, :, None], tf.sin(h)[:, :, None], h[:, :, None])", **SEQUENCES),
    *functions("tf.keras.ops", (
        f"solve({SYMMETRIC}, h)", f"solve_triangular({SYMMETRIC}, h, lower=True)", f"cholesky({SYMMETRIC})",
        f"inv({SYMMETRIC})", f"det({SYMMETRIC})", f"slogdet({SYMMETRIC})[1]", f"eigh({SYMMETRIC})[0]",
        f"svd({SYMMETRIC}, compute_uv=False)", f"qr({SYMMETRIC})[1]", f"cholesky_inverse({SYMMETRIC})",
        f"logdet({SYMMETRIC})", "norm(h, ord='fro', axis=(-2, -1))",
    ), **MATRICES),
    *functions("tf.keras.ops.image", (
        "resize(h, (4, 4))", "extract_patches(h, (2, 2))", "pad_images(h, 1, 1, 1, 1) ** 2",
        "affine_transform(h, tf.constant([[1.0, 0.1, 0.2, 0.1, 0.9, 0.1, 0.0, 0.0]] * {b}, h.dtype))",
    ), **IMAGES),
    *functions("tf.keras.ops.image", (
        "rgb_to_grayscale", "rgb_to_hsv(tf.sigmoid(h))", "hsv_to_rgb(tf.sigmoid(h))", "gaussian_blur(h)",
        "sobel_edges(h)",
    ), **COLOURS),
    function("tf.keras.ops.image.map_coordinates",
             "tf.keras.ops.image.map_coordinates(h, tf.stack([1 + tf.sin(h[0]) / 2, 1 + h[1] / 2]), 1)",
             shape="({b}, {n})", sizes={"b": (3, 4), "n": (3, 4)}, bounded=True),
)  # fmt: skip

_NETWORKS = (
    *functions("tf.nn", (
        "avg_pool(h, 2, 1, 'SAME')", "max_pool(h, 2, 1, 'VALID')", "pool(h, [2, 2], 'AVG')",
        "bias_add(h, h[0, 0, 0] ** 2)",
        "batch_normalization(h, tf.reduce_mean(h, 0), tf.exp(h[0]), None, None, 1e-3)",
        "space_to_depth(h[:, :2, :2], 2) ** 2", "l2_loss",
    ), **IMAGES),
    *functions("tf.nn", ("conv2d_transpose(h, k, ({b}, 2 * {r}, 2 * {r}, {c}), 2)", "convolution(h, k)",
                         "atrous_conv2d(h, k, 2, 'SAME')"), arrays={"k": "(2, 2, {c}, {c})"}, **IMAGES),
    function("tf.nn.depthwise_conv2d", "tf.nn.depthwise_conv2d(h, k, [1, 1, 1, 1], 'SAME')",
             arrays={"k": "(2, 2, {c}, 2)"}, **IMAGES),
    function("tf.nn.separable_conv2d", "tf.nn.separable_conv2d(h, k, p, [1, 1, 1, 1], 'SAME')",
             arrays={"k": "(2, 2, {c}, 2)", "p": "(1, 1, 2 * {c}, 2)"}, **IMAGES),
    function("tf.nn.conv1d", "tf.nn.conv1d(h, k, 1, 'SAME')", arrays={"k": "(2, {n}, 2)"}, **SEQUENCES),
    function("tf.nn.conv3d", "tf.nn.conv3d(h, k, [1] * 5, 'SAME')", arrays={"k": "(2, 2, 2, {c}, 1)"}, **VOLUMES),
    *functions("tf.nn", ("avg_pool1d(h, 2, 1, 'VALID')", "max_pool1d(h, 2, 1, 'VALID')"), **SEQUENCES),
    *functions("tf.nn", (f"isotonic_regression({SPREAD})[0]", "log_poisson_loss(tf.ones_like(h), h)"), **VECTORS),
)  # fmt: skip

_ARRAYS = (
    *functions("tf", (
        "tensor_scatter_nd_add(h, [[0]], h[:1] ** 2)", "tensor_scatter_nd_sub(h, [[0]], h[:1] ** 2)",
        "tensor_scatter_nd_update(h, [[0]], h[:1] ** 2)", "tensor_scatter_nd_min(h[0], [[1]], h[0, :1])",
        "broadcast_to(h, (2, {b}, {n})) ** 2", "tile(h, [2, 1]) ** 2",
        "reshape(h, [-1]) ** 2", "slice(h, [0, 1], [{b}, 1]) ** 2", "strided_slice(h, [0, 0], [{b}, {n}], [1, 2]) ** 2",
        "split(h, [1, {n} - 1], 1)[1] ** 2", "roll(h, 1, 1) ** 2", "repeat(h, 2, 1) ** 2", "reverse(h, [1]) ** 2",
        "reverse_sequence(h, [2] * {b}, seq_axis=1) ** 2", "stack([h, h ** 2])", "concat([h, h ** 2], 1)",
        "foldl(lambda s, r: tf.tanh(s) * r, h)", "foldr(lambda s, r: tf.tanh(s) * r, h)",
        "switch_case(tf.constant(1), [lambda: h, lambda: h ** 3])", "case([(h[0, 0] > 9, lambda: h)], lambda: h ** 3)",
        "clip_by_global_norm([h, h ** 2], 0.5)[0][1]", "dynamic_stitch([[0], [1]], [h[:1], h[:1] ** 2])",
        "dynamic_partition(h[0], [0, 1] + [1] * ({n} - 2), 2)[1] ** 2", "linalg.global_norm([h, h ** 2])",
    ), **VECTORS),
)  # fmt: skip

_MATRICES = (
    *functions("tf.linalg", (
        f"cholesky_solve(tf.linalg.cholesky({SYMMETRIC}), h)", "matvec(h, tf.sin(h[..., 0]))",
        f"lu_solve(*tf.linalg.lu({SYMMETRIC}), h)", f"lu_matrix_inverse(*tf.linalg.lu({SYMMETRIC}))",
        "set_diag(h, h[..., 0] ** 2)", "band_part(h, 1, 0) ** 2", "normalize(h, axis=-1)[0]", "diag_part(h) ** 2",
        f"eigvalsh({SYMMETRIC})", "norm(h, 'fro', axis=[-2, -1])",
        "tridiagonal_solve(tf.stack([h[..., 0], tf.sin(h[..., 1]) + 5, h[..., 0]], -2), h, 'compact')",
        f"adjoint({SYMMETRIC}) ** 2", "tensor_diag_part(h[0]) ** 2",
    ), **MATRICES),
    function("tf.linalg.cross", "tf.linalg.cross(h, tf.sin(h))", shape="({b}, 3)", sizes={"b": (1, 2)}),
)  # fmt: skip

_SIGNALS = (
    *functions("tf.signal", (
        "frame(h, 2, 1) ** 2", "overlap_and_add(h, 1) ** 2", "idct", "mdct(tf.tile(h, [1, 2])[:, :4], 4)",
    ), **VECTORS),
    *functions("tf", ("abs(tf.signal.stft(h, 2, 1))", "signal.fftshift(h) ** 2"), **VECTORS),
    function("tf.signal.inverse_stft", "tf.signal.inverse_stft(tf.signal.stft(h, 2, 1) ** 2, 2, 1)", **VECTORS),
    function("tf.signal.ifft", "tf.math.imag((1 + 1j) * tf.signal.ifft(tf.cast(h, 'complex128')) ** 2)", **VECTORS),
    function("tf.signal.rfft2d", "tf.math.imag((1 + 1j) * tf.signal.rfft2d(h) ** 2)", **MATRICES),
    function("tf.signal.irfft2d", "tf.signal.irfft2d(tf.signal.rfft2d(h) ** 2)", **MATRICES),
)  # fmt: skip

_PICTURES = (
    *functions("tf.image", (
        "rgb_to_hsv(tf.sigmoid(h))", "hsv_to_rgb(tf.sigmoid(h))", "rgb_to_grayscale(h) ** 2", "rgb_to_yiq(h) ** 2",
        "rgb_to_yuv(h) ** 2", "adjust_contrast(h, 1.5) ** 2", "adjust_gamma(tf.sigmoid(h), 1.5)",
        "adjust_hue(tf.sigmoid(h), 0.1)", "adjust_saturation(tf.sigmoid(h), 1.5)", "adjust_brightness(h, 0.1) ** 2",
        "per_image_standardization", "sobel_edges(h) ** 2", "total_variation(h)", "psnr(h, tf.sin(h) + 1, 2.0)",
        "ssim(h, tf.sin(h), 2.0, filter_size=2)", "image_gradients(h)[0] ** 2", "flip_left_right(h) ** 2",
        "rot90(h) ** 2", "pad_to_bounding_box(h, 1, 1, {r} + 2, {r} + 2) ** 2", "central_crop(h, 0.9) ** 2",
        "resize_with_pad(h, 4, 4)",
    ), **COLOURS),
)  # fmt: skip

LIBRARY = (*_KERAS_LAYERS, *_KERAS_OPS, *_NETWORKS, *_ARRAYS, *_MATRICES, *_SIGNALS, *_PICTURES)
"""In the order of the report."""
