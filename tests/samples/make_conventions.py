"""Record what Keras 3, Keras 2 (tf_keras), Flax and Equinox compute, for test_conventions.py.

In an environment of its own: pip install tensorflow-cpu tf_keras flax equinox; python make_conventions.py
Inputs and weights are eighths, so that convolutions are exact and the file is short.
"""

import importlib.metadata
import json
from pathlib import Path

import equinox
import flax.linen
import jax
import keras
import numpy as np
import tf_keras

rng = np.random.default_rng(0)


def eighths(*shape, low=-16, high=17):
    return (rng.integers(low, high, shape) / 8).astype(np.float32)


def plain(value):
    """Lists of numbers with the digits of float32."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "shape"):
        return plain(np.asarray(value).tolist())
    return float(f"{value:.8g}") if isinstance(value, float) else value


def statistics(n_channels):
    return {"mean": eighths(n_channels), "var": eighths(n_channels, low=1, high=33)}


def keras_norm(library, x, *, momentum=0.99, epsilon=1e-3, scale=True, center=True):
    options = {"momentum": momentum, "epsilon": epsilon, "scale": scale, "center": center}
    layer = library.layers.BatchNormalization(**options)
    layer.build(x.shape)
    weights = [eighths(x.shape[-1], low=1)] * scale + [eighths(x.shape[-1])] * center
    weights += statistics(x.shape[-1]).values()
    layer.set_weights(weights)
    y = np.asarray(layer(x, training=False))
    layer(x, training=True)
    mean, var = layer.get_weights()[-2:]
    return {"options": options, "weights": weights, "x": x, "y": y, "after": {"mean": mean, "var": var}}


def flax_norm(x, *, momentum=0.99, epsilon=1e-5, use_scale=True, use_bias=True):
    options = {"momentum": momentum, "epsilon": epsilon}
    layer = flax.linen.BatchNorm(**options, use_scale=use_scale, use_bias=use_bias)
    params = {"scale": eighths(x.shape[-1], low=1)} if use_scale else {}
    params |= {"bias": eighths(x.shape[-1])} if use_bias else {}
    variables = {"params": params, "batch_stats": statistics(x.shape[-1])}
    y = layer.apply(variables, x, use_running_average=True)
    _, after = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    return {"options": options, **variables, "x": x, "y": y, "after": after["batch_stats"]}


def equinox_norm(x, *, momentum=0.99, epsilon=1e-5):
    """Two steps: in the first, the running statistics become the batch's."""
    layer, state = equinox.nn.make_with_state(equinox.nn.BatchNorm)(
        x.shape[-1], axis_name="batch", momentum=momentum, eps=epsilon, mode="ema"
    )
    steps = []
    for batch in (x[:3], x[3:]):
        _, state = jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(batch, state)
        steps.append(dict(zip(("mean", "var"), state.get(layer.ema_state_index), strict=True)))
    return {"options": {"momentum": momentum}, "batch_stats": steps[0], "x": x[3:], "after": steps[1]}


def keras_kernel(kind, layer, shape, **torch_options):
    x = eighths(2, *shape)
    layer(x)
    kernel = eighths(*layer.get_weights()[0].shape)
    layer.set_weights([kernel])
    return {"kind": kind, "kernel": kernel, "x": x, "y": np.asarray(layer(x)), "options": torch_options}


def flax_kernel(kind, layer, shape, **torch_options):
    x = eighths(2, *shape)
    kernel = eighths(*layer.init(jax.random.key(0), x)["params"]["kernel"].shape)
    y = layer.apply({"params": {"kernel": kernel}}, x)
    return {"kind": kind, "kernel": kernel, "x": x, "y": y, "options": torch_options}


def flattened_dense():
    x, kernel = eighths(2, 2, 3, 2), eighths(12, 2)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2, use_bias=False)])
    model(x)
    model.set_weights([kernel])
    return {"kind": "dense", "kernel": kernel, "x": x, "y": np.asarray(model(x)), "options": {}}


def keras_kernels():
    layers, conv, depthwise, transposed = keras.layers, "conv", "keras depthwise conv", "keras transposed conv"

    def made(name, *args, **options):
        return getattr(layers, name)(*args, use_bias=False, **options)

    return {
        "dense": keras_kernel("dense", made("Dense", 2), [3]),
        "conv 1-D": keras_kernel(conv, made("Conv1D", 3, 2), [4, 2]),
        "conv 2-D": keras_kernel(conv, made("Conv2D", 3, (2, 3)), [3, 4, 2]),
        "conv 2-D in groups": keras_kernel(conv, made("Conv2D", 4, (2, 1), groups=2), [3, 2, 4], groups=2),
        "conv 3-D": keras_kernel(conv, made("Conv3D", 2, (2, 1, 3)), [2, 2, 3, 3]),
        "depthwise 1-D": keras_kernel(depthwise, made("DepthwiseConv1D", 2, depth_multiplier=2), [4, 3], groups=3),
        "depthwise 2-D": keras_kernel(
            depthwise, made("DepthwiseConv2D", (2, 3), depth_multiplier=2), [3, 4, 3], groups=3
        ),
        "transposed 1-D": keras_kernel(transposed, made("Conv1DTranspose", 3, 3, strides=2), [3, 2], stride=2),
        "transposed 2-D": keras_kernel(transposed, made("Conv2DTranspose", 3, (2, 3), strides=2), [2, 3, 2], stride=2),
        "transposed 3-D": keras_kernel(transposed, made("Conv3DTranspose", 3, (2, 1, 3)), [1, 2, 2, 2]),
    }


def flax_kernels():
    conv, transposed = "conv", "flax transposed conv"

    def made(name, *args, **options):
        return getattr(flax.linen, name)(*args, use_bias=False, padding="VALID", **options)

    return {
        "dense": flax_kernel("dense", flax.linen.Dense(2, use_bias=False), [3]),
        "conv 1-D": flax_kernel(conv, made("Conv", 3, (2,)), [4, 2]),
        "conv 2-D": flax_kernel(conv, made("Conv", 3, (2, 3)), [3, 4, 2]),
        "depthwise 2-D": flax_kernel(conv, made("Conv", 6, (2, 3), feature_group_count=3), [3, 4, 3], groups=3),
        "conv 3-D": flax_kernel(conv, made("Conv", 2, (2, 1, 3)), [2, 2, 3, 3]),
        "transposed 1-D": flax_kernel(transposed, made("ConvTranspose", 3, (3,), (2,)), [3, 2], stride=2),
        "transposed 2-D": flax_kernel(transposed, made("ConvTranspose", 3, (2, 3), (2, 2)), [2, 3, 2], stride=2),
        "transposed 3-D": flax_kernel(transposed, made("ConvTranspose", 3, (2, 1, 3)), [1, 2, 2, 2]),
        "transposed 2-D, transpose_kernel=True": flax_kernel(
            "keras transposed conv",
            made("ConvTranspose", 3, (2, 3), (2, 2), transpose_kernel=True),
            [2, 3, 2],
            stride=2,
        ),
    }


dense, images = eighths(6, 3), eighths(2, 2, 3, 3)
packages = ("keras", "tf_keras", "tensorflow", "flax", "jax", "equinox")
recorded = {
    "made by": Path(__file__).name,
    "versions": {name: importlib.metadata.version(name) for name in packages},
    "keras norms": {
        "dense": keras_norm(keras, dense, momentum=0.9),
        "images": keras_norm(keras, images),
        "without gamma": keras_norm(keras, dense, scale=False, momentum=0.75),
        "without beta": keras_norm(keras, images, center=False, epsilon=0.125),
        "without both": keras_norm(keras, dense, scale=False, center=False, momentum=0.5),
    },
    "tf_keras norms": {
        "dense": keras_norm(tf_keras, dense, momentum=0.9),
        "images": keras_norm(tf_keras, images, momentum=0.9),
    },
    "flax norms": {
        "dense": flax_norm(dense, momentum=0.9),
        "images": flax_norm(images),
        "without scale": flax_norm(images, use_scale=False, momentum=0.75),
        "without bias": flax_norm(dense, use_bias=False, epsilon=0.125),
        "without both": flax_norm(dense, use_scale=False, use_bias=False, momentum=0.5),
    },
    "equinox norms": {"dense": equinox_norm(dense, momentum=0.9)},
    "keras kernels": keras_kernels(),
    "flax kernels": flax_kernels(),
    "flattened": flattened_dense(),
}
Path(__file__).with_name("conventions.json").write_text(json.dumps(plain(recorded), separators=(",", ":")) + "\n")
