"""Cases of the functions of ``keras.ops`` for networks, images, signals, linear algebra, and control flow."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from keras import ops
from ops_values import EDGES, INF, MODERATE, Cases, array, integers, normal, uniform

CASES, OPS = Cases(), vars(ops)
X3 = normal(3, 4, 5)
CLOSE = {"atol": 2e-5}

# ---- products and linear algebra -----------------------------------------------------------------------------------

PRODUCTS: dict[str, Any] = {
    "matmul-batch": ops.matmul,
    "dot-last": lambda x, y: ops.dot(x[0], y[0]),
    "inner-last": lambda x, y: ops.inner(x[0], ops.transpose(y[0])),
    "outer-vectors": lambda x, y: ops.outer(x[0, 0], y[0, :, 0]),
    "vdot-vectors": lambda x, y: ops.reshape(ops.vdot(x[0, 0], y[0, :, 0]), (1,)),
    "tensordot-axes": lambda x, y: ops.tensordot(x[0], y[0], axes=1),
    "einsum-batch": lambda x, y: ops.einsum("bij,bjk->bki", x, y),
    "einsum-trace": lambda x, y: ops.einsum("bij,bji->b", x, y[:, :, :4]),
    "cdist-rows": lambda x, y: ops.cdist(x[0], ops.transpose(y[0])),
    "cross-vectors": lambda x, y: ops.cross(x[:, :, :3], x[:, :, 2:]),
}
for name, function in PRODUCTS.items():
    CASES.add(f"{name}-float32", function, X3, normal(3, 5, 4, seed=1), fixed="batch" not in name, **CLOSE)
for dtype in ("int32", "int64", "int8"):
    CASES.add(
        f"matmul-{dtype}",
        ops.matmul,
        integers(-9, 9, 3, 2, 4, dtype=dtype),
        integers(-9, 9, 3, 4, 2, dtype=dtype, seed=1),
    )
    CASES.add(
        f"einsum-{dtype}",
        lambda x, y: ops.einsum("bij,bjk->bik", x, y),
        integers(-9, 9, 3, 2, 4, dtype=dtype),
        integers(-9, 9, 3, 4, 2, dtype=dtype, seed=1),
    )
    CASES.add(
        f"tensordot-{dtype}",
        lambda x, dtype=dtype: ops.tensordot(x, np.arange(8).reshape(4, 2).astype(dtype), axes=1),
        integers(-9, 9, 3, 2, 4, dtype=dtype),
    )
CASES.add("matmul-nan", ops.matmul, array([[[0.0, 1.0], [INF, 0.0]]]), array([[[INF, 1.0], [2.0, 0.0]]]))
CASES.add("matmul-vector", lambda x: ops.matmul(x, np.arange(5, dtype="float32")), X3, **CLOSE)
SQUARE = normal(3, 4, 4) + 3 * np.eye(4, dtype="float32")
GRAM = (SQUARE @ SQUARE.transpose(0, 2, 1) + np.eye(4)).astype("float32")
LOOSE = {"rtol": 1e-3, "atol": 1e-3}
CASES.add("det-batch", ops.det, SQUARE, **LOOSE)
CASES.add("inv-batch", ops.inv, SQUARE, **LOOSE)
CASES.add("pinv-batch", ops.pinv, SQUARE, **LOOSE)
CASES.add("cholesky-batch", ops.cholesky, GRAM, **LOOSE)
CASES.add("cholesky-upper", lambda x: ops.cholesky(x, upper=True), GRAM, **LOOSE)
CASES.add("cholesky_inverse-batch", ops.cholesky_inverse, np.linalg.cholesky(GRAM), **LOOSE)
CASES.add("solve-batch", ops.solve, SQUARE, normal(3, 4, 2), **LOOSE)
CASES.add(
    "solve_triangular-lower",
    lambda a, b: ops.solve_triangular(a, b, lower=True),
    np.tril(SQUARE),
    normal(3, 4, 2),
    **LOOSE,
)
CASES.add("solve_triangular-upper", ops.solve_triangular, np.triu(SQUARE), normal(3, 4, 2), **LOOSE)
CASES.add("slogdet-batch", ops.slogdet, SQUARE, **LOOSE)
for name in ("det", "slogdet"):
    CASES.add(f"{name}-singular", OPS[name], array([[[1, 1, 1]] * 3, [[2, 0, 0], [0, 3, 0], [0, 0, 0]]]), **LOOSE)
CASES.add("logdet-batch", ops.logdet, GRAM, **LOOSE)
CASES.add("lstsq-matrix", ops.lstsq, normal(5, 3), normal(5, 2), fixed=True, **LOOSE)
CASES.add("lu_factor-matrix", lambda x: ops.lu_factor(x[0])[0], SQUARE, fixed=True, **LOOSE)
CASES.add("qr-batch", lambda x: ops.abs(ops.qr(x)[1]), SQUARE, **LOOSE)
CASES.add("eigh-batch", lambda x: ops.eigh(x)[0], GRAM, **LOOSE)
CASES.add("eig-real", lambda x: ops.real(ops.eig(x)[0]), GRAM, **LOOSE)
CASES.add("svd-values", lambda x: ops.svd(x, compute_uv=False), SQUARE, **LOOSE)
CASES.add("matrix_rank-batch", ops.matrix_rank, SQUARE)

# ---- networks ------------------------------------------------------------------------------------------------------

ROWS = array([[1, 2, 3, -4], [-INF, 0, 1, -INF], [1e4, 1e4, 0, -1e4], [0, 0, 0, 0]])
for name in ("softmax", "log_softmax", "sparsemax"):
    CASES.add(f"{name}-rows", OPS[name], ROWS[[0, 3]] if name == "sparsemax" else ROWS)
    CASES.add(f"{name}-axis", lambda x, function=OPS[name]: function(x, axis=1), X3)
    if name != "sparsemax":
        CASES.add(
            f"{name}-masked",
            OPS[name],
            array([[-INF, -INF, -INF], [-1e9, -1e9, -1e9], [-1e30, 1e30, 0]]),
        )
        CASES.add(f"{name}-two-axes", lambda x, function=OPS[name]: function(x, axis=(1, 2)), X3, fixed=True)
CASES.add("glu-last", ops.glu, MODERATE)
CASES.add("glu-axis", lambda x: ops.glu(x, axis=1), X3)
for order in (1, 2, 3):
    CASES.add(f"normalize-{order}", lambda x, order=order: ops.normalize(x, axis=1, order=order), X3)
CASES.add("normalize-zeros", ops.normalize, X3 * 0)
NORMS = [normal(5, seed=i) for i in range(2)]
CASES.add(
    "batch_normalization-last",
    lambda x: ops.batch_normalization(x, NORMS[0], np.abs(NORMS[1]), axis=-1, offset=NORMS[1], scale=NORMS[0]),
    X3,
    **CLOSE,
)
CASES.add(
    "batch_normalization-middle",
    lambda x: ops.batch_normalization(x, NORMS[0][:4], np.abs(NORMS[1][:4]), axis=1),
    X3,
    **CLOSE,
)
CASES.add("layer_normalization-last", lambda x: ops.layer_normalization(x, NORMS[0], NORMS[1]), X3, **CLOSE)
CASES.add("layer_normalization-plain", lambda x: ops.layer_normalization(x, axis=(1, 2)), X3, **CLOSE)
CASES.add("rms_normalization-last", lambda x: ops.rms_normalization(x, NORMS[0]), X3, **CLOSE)
CASES.add("rms_normalization-zeros", lambda x: ops.rms_normalization(x * 0), X3)
LABELS = array([[0, 1], [2, 0]], "int32")
CASES.add(
    "binary_crossentropy-logits",
    lambda t, o: ops.binary_crossentropy(t, o, from_logits=True),
    uniform(3, 4),
    normal(3, 4) * 40,
)
CASES.add(
    "binary_crossentropy-edges",
    ops.binary_crossentropy,
    array([[0, 1, 0, 1, 0.5]]),
    array([[0, 1, 1, 0, 0.3]]),
    rtol=1e-4,
)
CASES.add(
    "categorical_crossentropy-logits",
    lambda t, o: ops.categorical_crossentropy(t, o, from_logits=True),
    uniform(3, 4),
    normal(3, 4) * 40,
)
CASES.add("categorical_crossentropy-plain", ops.categorical_crossentropy, uniform(3, 4), uniform(3, 4, seed=1))
CASES.add(
    "sparse_categorical_crossentropy-logits",
    lambda t, o: ops.sparse_categorical_crossentropy(t, o, from_logits=True),
    LABELS,
    normal(2, 2, 3),
)
CASES.add(
    "sparse_categorical_crossentropy-plain", ops.sparse_categorical_crossentropy, LABELS, uniform(2, 2, 3, low=0.1)
)
CASES.add(
    "ctc_loss-rows",
    lambda o: ops.ctc_loss(np.array([[1, 2], [2, 1]], "int32"), o, np.array([2, 2]), np.array([5, 5])),
    normal(2, 5, 4),
    fixed=True,
)
CASES.add("ctc_decode-greedy", lambda o: ops.ctc_decode(o, np.array([5, 5], "int32")), normal(2, 5, 4), fixed=True)
CASES.add(
    "psnr-images", lambda x, y: ops.reshape(ops.psnr(x, y, 1.0), (1,)), uniform(2, 4), uniform(2, 4, seed=1), fixed=True
)
QKV = [normal(2, 5, 2, 4, seed=i) for i in range(3)]
CASES.add("dot_product_attention-plain", ops.dot_product_attention, *QKV, **CLOSE)
CASES.add(
    "dot_product_attention-causal", lambda q, k, v: ops.dot_product_attention(q, k, v, is_causal=True), *QKV, **CLOSE
)
CASES.add(
    "dot_product_attention-mask",
    lambda q, k, v, m: ops.dot_product_attention(q, k, v, mask=m),
    *QKV,
    np.arange(50).reshape(2, 1, 5, 5) % 3 > 0,
    **CLOSE,
)
CASES.add(
    "dot_product_attention-bias",
    lambda q, k, v: ops.dot_product_attention(q, k, v, bias=np.ones((1, 2, 5, 5), "float32"), scale=0.3),
    *QKV,
    **CLOSE,
)

CONV = {1: normal(2, 11, 4), 2: normal(2, 9, 8, 4), 3: normal(2, 6, 5, 7, 4)}
for rank, padding, strides, dilation, groups in itertools.product(
    (1, 2, 3), ("valid", "same"), (1, 2, 3), (1, 2), (1, 2)
):
    if (strides == 1 or dilation == 1) and not (rank == 3 and (strides == 3 or dilation == 2)):
        kernel = normal(*[3, 2, 3][:rank], 4 // groups, 6, seed=1)
        name = f"conv-{rank}d-{padding}-{strides}-{dilation}-{groups}"
        CASES.add(
            name,
            lambda x, kernel=kernel, s=strides, p=padding, d=dilation: ops.conv(x, kernel, s, p, "channels_last", d),
            CONV[rank],
            **CLOSE,
        )
for rank, padding, strides, size in itertools.product((1, 2, 3), ("valid", "same"), (1, 2, 3), (2, 3, 4)):
    if rank != 3 or size == 3:
        for output_padding in (None, strides - 1):
            if output_padding == 0 or (padding, output_padding) == ("same", 0):
                continue
            kernel = normal(*[size] * rank, 3, 4, seed=1)
            name = f"conv_transpose-{rank}d-{padding}-{strides}-{size}-{output_padding}"
            CASES.add(
                name,
                lambda x, kernel=kernel, s=strides, p=padding, o=output_padding: ops.conv_transpose(
                    x, kernel, s, p, o, "channels_last"
                ),
                CONV[rank],
                **CLOSE,
            )
for rank, padding in itertools.product((1, 2), ("valid", "same")):
    kernel = normal(*[3] * rank, 3, 4)
    spread = np.zeros((*[5] * rank, 3, 4), "float32")  # TensorFlow on a CPU may not have dilations
    spread[(slice(None, None, 2),) * rank] = kernel
    CASES.add(
        f"conv_transpose-{rank}d-{padding}-dilated",
        lambda x, k=kernel, p=padding: ops.conv_transpose(x, k, 1, p, None, "channels_last", 2),
        CONV[rank],
        reference=lambda x, k=spread, p=padding: ops.conv_transpose(x, k, 1, p, None, "channels_last"),
        **CLOSE,
    )
for rank, padding, strides, dilation in itertools.product((1, 2), ("valid", "same"), (1, 2), (1, 2)):
    if strides == 1 or dilation == 1:
        kernel, point = normal(*[3] * rank, 4, 2, seed=1), normal(*[1] * rank, 8, 5, seed=2)
        options = {"strides": strides, "padding": padding, "dilation_rate": dilation, "data_format": "channels_last"}
        CASES.add(
            f"depthwise_conv-{rank}d-{padding}-{strides}-{dilation}",
            lambda x, kernel=kernel, o=options: ops.depthwise_conv(x, kernel, **o),
            CONV[rank],
            **CLOSE,
        )
        CASES.add(
            f"separable_conv-{rank}d-{padding}-{strides}-{dilation}",
            lambda x, k=kernel, p=point, o=options: ops.separable_conv(x, k, p, **o),
            CONV[rank],
            **CLOSE,
        )
for rank, padding, strides in itertools.product((1, 2, 3), ("valid", "same"), (1, 2, None)):
    for name in ("max_pool", "average_pool"):
        CASES.add(
            f"{name}-{rank}d-{padding}-{strides}",
            lambda x, f=OPS[name], s=strides, p=padding: f(x, 3, s, p, "channels_last"),
            CONV[rank] - 5.0 * (name == "max_pool"),
            **CLOSE,
        )
for rank, name in itertools.product((1, 2, 3), ("adaptive_max_pool", "adaptive_average_pool")):
    CASES.add(
        f"{name}-{rank}d",
        lambda x, f=OPS[name], rank=rank: f(x, (3,) * rank if rank > 1 else 3, "channels_last"),
        CONV[rank],
        **CLOSE,
    )
CASES.add(
    "max_pool-infinite",
    lambda x: ops.max_pool(x, 2, 1, "same", "channels_last"),
    np.where(CONV[2] > 1.8, -INF, CONV[2]),
)
CASES.add("unfold-image", lambda x: ops.unfold(x, 2, stride=2), normal(2, 3, 6, 8), fixed=True, **CLOSE)
CASES.add("fold-image", lambda x: ops.fold(x, (6, 8), 2, stride=2), normal(2, 12, 12), **CLOSE)
CASES.add("depth_to_space-last", lambda x: ops.depth_to_space(x, 2), CONV[2])
CASES.add("space_to_depth-last", lambda x: ops.space_to_depth(x[:, :8], 2), CONV[2])
CASES.add(
    "polar-parts", lambda a, b: (ops.real(ops.polar(a, b)), ops.imag(ops.polar(a, b))), uniform(2, 4), normal(2, 4)
)
CASES.add("view_as_real-parts", lambda x: ops.view_as_real(ops.view_as_complex(x)), normal(3, 4, 2))
CASES.add(
    "view_as_complex-product",
    lambda x: ops.view_as_real(ops.multiply(ops.view_as_complex(x), ops.view_as_complex(x))),
    normal(3, 4, 2),
)
CASES.add("real-complex", lambda x: ops.real(ops.view_as_complex(x)), normal(3, 4, 2))
CASES.add("imag-complex", lambda x: ops.imag(ops.conjugate(ops.view_as_complex(x))), normal(3, 4, 2))
CASES.add("angle-complex", lambda x: ops.angle(ops.view_as_complex(x)), normal(3, 4, 2))
CASES.add("abs-complex", lambda x: ops.abs(ops.view_as_complex(x)), normal(3, 4, 2))

# ---- images and signals --------------------------------------------------------------------------------------------

IMAGE = uniform(2, 9, 8, 3)
for method, size, antialias in itertools.product(
    ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"), ((18, 16), (5, 3), (13, 8)), (False, True)
):
    if not (method == "nearest" and antialias):
        name = f"image.resize-{method}-{size[0]}x{size[1]}{'-antialias' * antialias}"
        CASES.add(
            name,
            lambda x, m=method, s=size, a=antialias: ops.image.resize(x, s, m, a, data_format="channels_last"),
            IMAGE,
            **CLOSE,
        )
CASES.add(
    "image.resize-crop",
    lambda x: ops.image.resize(x, (4, 6), crop_to_aspect_ratio=True, data_format="channels_last"),
    IMAGE,
    **CLOSE,
)
CASES.add(
    "image.resize-pad",
    lambda x: ops.image.resize(x, (4, 6), pad_to_aspect_ratio=True, data_format="channels_last"),
    IMAGE,
    **CLOSE,
)
CASES.add(
    "image.resize-uint8",
    lambda x: ops.image.resize(x, (18, 16), "nearest", data_format="channels_last"),
    (IMAGE * 255).astype("uint8"),
)
CASES.add(
    "image.resize-first",
    lambda x: ops.image.resize(x, (18, 16), data_format="channels_first"),
    IMAGE.transpose(0, 3, 1, 2).copy(),
    **CLOSE,
)
for method in ("bilinear", "lanczos3"):
    CASES.add(
        f"image.scale_and_translate-{method}",
        lambda x, m=method: ops.image.scale_and_translate(
            x, (2, 12, 10, 3), np.array([1.3, 1.2], "float32"), np.array([0.5, -1.0], "float32"), (1, 2), m
        ),
        IMAGE,
        fixed=True,
        **CLOSE,
    )
TRANSFORM = np.array([[0.9, 0.1, 1.0, -0.1, 1.1, 0.5, 0.0, 0.0]], "float32")
for method, mode in itertools.product(("nearest", "bilinear"), ("constant", "nearest", "reflect", "wrap")):
    name = f"image.affine_transform-{method}-{mode}"
    CASES.add(
        name,
        lambda x, m=method, f=mode: ops.image.affine_transform(
            x, np.repeat(TRANSFORM, 2, 0), m, f, 0.3, "channels_last"
        ),
        IMAGE,
        fixed=True,
        **CLOSE,
    )
CORNERS = np.array([[[0, 0], [7, 0], [0, 8], [7, 8]]] * 2, "float32")
CASES.add(
    "image.perspective_transform-bilinear",
    lambda x: ops.image.perspective_transform(x, CORNERS, CORNERS * 0.8 + 0.5, data_format="channels_last"),
    IMAGE,
    fixed=True,
    atol=1e-3,
)
CASES.add(
    "image.elastic_transform-seed",
    lambda x: ops.image.elastic_transform(x, 2.0, 1.0, seed=1, data_format="channels_last"),
    IMAGE,
    fixed=True,
    **CLOSE,
)
for order, mode in itertools.product((0, 1), ("constant", "nearest", "reflect", "wrap")):
    CASES.add(
        f"image.map_coordinates-{order}-{mode}",
        lambda x, c, o=order, f=mode: ops.image.map_coordinates(x, ops.transpose(c) * 1.0, o, f, 0.3),
        normal(5, 6),
        uniform(7, 2, low=-2.4, high=7.3),
        fixed=True,
        **CLOSE,
    )
CASES.add("image.rgb_to_grayscale-last", lambda x: ops.image.rgb_to_grayscale(x, "channels_last"), IMAGE)
CASES.add(
    "image.rgb_to_hsv-last",
    lambda x: ops.image.rgb_to_hsv(x, "channels_last"),
    np.concatenate([IMAGE, IMAGE * 0, IMAGE[..., :1] + 0 * IMAGE]),
    **CLOSE,
)
CASES.add(
    "image.hsv_to_rgb-last",
    lambda x: ops.image.hsv_to_rgb(x, "channels_last"),
    np.concatenate([IMAGE, IMAGE * 0]),
    **CLOSE,
)
CASES.add("image.pad_images-sides", lambda x: ops.image.pad_images(x, 1, 2, 3, 4, data_format="channels_last"), IMAGE)
CASES.add(
    "image.crop_images-sides",
    lambda x: ops.image.crop_images(x, 1, 2, target_height=4, target_width=3, data_format="channels_last"),
    IMAGE,
)
for padding in ("valid", "same"):
    CASES.add(
        f"image.extract_patches-{padding}",
        lambda x, p=padding: ops.image.extract_patches(x, (3, 2), 2, 1, p, "channels_last"),
        IMAGE,
        **CLOSE,
    )
    CASES.add(
        f"image.extract_patches_3d-{padding}",
        lambda x, p=padding: ops.image.extract_patches_3d(x, 2, 2, 1, p, "channels_last"),
        CONV[3],
        **CLOSE,
    )
CASES.add("image.gaussian_blur-last", lambda x: ops.image.gaussian_blur(x, data_format="channels_last"), IMAGE, **CLOSE)
CASES.add("image.sobel_edges-last", lambda x: ops.image.sobel_edges(x, "channels_last"), IMAGE, **CLOSE)
CASES.add(
    "image.ssim-pair",
    lambda x, y: ops.image.ssim(x, y, filter_size=5, data_format="channels_last"),
    uniform(2, 9, 9, 1),
    uniform(2, 9, 9, 1, seed=1),
    atol=1e-4,
)

WAVE = normal(2, 40)
CASES.add("rfft-plain", ops.rfft, WAVE, **CLOSE)
CASES.add("rfft-longer", lambda x: ops.rfft(x, 64), WAVE, **CLOSE)
CASES.add("rfft-shorter", lambda x: ops.rfft(x, 16), WAVE, **CLOSE)
CASES.add("irfft-plain", lambda x, y: ops.irfft((x, y)), normal(2, 9), normal(2, 9, seed=1), **CLOSE)
CASES.add("irfft-length", lambda x, y: ops.irfft((x, y), 12), normal(2, 9), normal(2, 9, seed=1), **CLOSE)
CASES.add("fft-pair", lambda x, y: ops.fft((x, y)), WAVE, normal(2, 40, seed=1), **CLOSE)
CASES.add("fft2-pair", lambda x, y: ops.fft2((x, y)), normal(2, 6, 5), normal(2, 6, 5, seed=1), **CLOSE)
CASES.add("ifft2-pair", lambda x, y: ops.ifft2((x, y)), normal(2, 6, 5), normal(2, 6, 5, seed=1), **CLOSE)
for window, center in (("hann", True), ("hamming", False), (None, True)):
    CASES.add(f"stft-{window}-{center}", lambda x, w=window, c=center: ops.stft(x, 16, 8, 32, w, c), WAVE, **CLOSE)
CASES.add("istft-back", lambda x: ops.istft(ops.stft(x, 16, 8, 16), 16, 8, 16), WAVE, **CLOSE)
CASES.add("extract_sequences-overlap", lambda x: ops.extract_sequences(x, 16, 8), WAVE)

# ---- control flow --------------------------------------------------------------------------------------------------

CASES.add("cond-tensor", lambda x: ops.cond(ops.sum(x) > 0, lambda: x * 2, lambda: x - 1), MODERATE)
CASES.add(
    "switch-tensor",
    lambda x: ops.switch(ops.cast(ops.sum(x[:1, :1]) > 1, "int32"), [lambda t: t * 2, lambda t: t - 1], x),
    MODERATE,
)
CASES.add(
    "while_loop-counted",
    lambda x: ops.while_loop(lambda i, t: i < 3, lambda i, t: (i + 1, t * 0.5 + 1), (0, x))[1],
    MODERATE,
)
CASES.add(
    "while_loop-open",
    lambda x: ops.while_loop(lambda t: ops.max(t) < 100, lambda t: (t * 2,), (ops.abs(x) + 1,))[0],
    MODERATE,
)
CASES.add("fori_loop-five", lambda x: ops.fori_loop(0, 5, lambda i, t: t * 0.5 + ops.cast(i, "float32"), x), MODERATE)
CASES.add(
    "scan-steps",
    lambda x: ops.scan(lambda c, t: (c * 0.5 + t, c + t), ops.zeros_like(x[:, 0]), ops.transpose(x))[1],
    MODERATE,
)
CASES.add(
    "scan-reversed",
    lambda x: ops.scan(lambda c, t: (c * 0.5 + t, c + t), ops.zeros_like(x[:, 0]), ops.transpose(x), reverse=True),
    MODERATE,
)
CASES.add("scan-length", lambda x: ops.scan(lambda c, _: (c * 0.5, c), x, length=4)[1], MODERATE)
CASES.add("associative_scan-sum", lambda x: ops.associative_scan(lambda a, b: a + b, x, axis=0), X3, fixed=True)
CASES.add(
    "associative_scan-product",
    lambda x: ops.associative_scan(lambda a, b: a * b, x, axis=0, reverse=True),
    X3,
    fixed=True,
)
CASES.add("map-batch", lambda x: ops.map(lambda row: ops.sum(row * row) + row, x), X3)
CASES.add("map-fixed", lambda x: ops.map(lambda row: ops.cumsum(row) * 2, x), MODERATE, fixed=True)
CASES.add(
    "vectorized_map-batch", lambda x: ops.vectorized_map(lambda row: ops.sum(row * row) + ops.floor(row), x), MODERATE
)
CASES.add(
    "custom_gradient-twice",
    ops.custom_gradient(lambda t: (t * 2, lambda *args, upstream=None: upstream)),
    EDGES,
)
