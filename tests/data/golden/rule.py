"""How every weight and input behind the golden vectors is made: numbers drawn from NumPy's legacy generator,
seeded by the parameter's published name, so nothing large needs to be stored."""

import zlib

import numpy as np

STRIDES = (8, 16, 32, 64, 128)


def value(name, shape, seed):
    """Array for one entry of the published state dict (`name` as in its list of shapes), before casting to
    float32."""
    r = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32).standard_normal(shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if name.endswith("running_mean"):
        return 0.1 * r
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(r)
    if len(shape) == 4:
        if name.endswith("conv_offset.weight"):
            return 0.1 * r
        gain = {"bbox_head.fcos_reg.weight": 0.1, "bbox_head.fcos_refine_out.weight": 0.3}.get(name, 1.0)
        return gain * r * np.sqrt(2 / np.prod(shape[1:]))
    if name.endswith(".scale"):
        return 1 + 0.1 * r
    if name.endswith("weight"):
        return (0.5 if name.startswith("backbone.") else 1.0) * (1 + 0.1 * r)
    if name == "bbox_head.fcos_reg.bias":
        return 4 * r  # locations predict nearly the same pose, so neighbours have graded OKS
    return {"bbox_head.fcos_cls.bias": -1.5, "bbox_head.hm_out.bias": -4.6}.get(name, 0.0) + 0.1 * r


def head_features(seed, batch=3, height=512, width=640, channels=256):
    """The five feature maps P3..P7, each (batch, channels, ceil(height/s), ceil(width/s)), float32, for
    head_SEED.npz."""
    rng = np.random.RandomState(1000 + seed)
    return [
        rng.standard_normal((batch, channels, -(-height // s), -(-width // s))).astype(np.float32)
        for s in STRIDES
    ]


def network_image(seed, height=288, width=352):
    """The (1, 3, height, width) float32 input, already normalised, of the whole network in
    network_KIND_SEED.npz."""
    return np.random.RandomState(6000 + seed).uniform(-110, 140, (1, 3, height, width)).astype(np.float32)
