"""How the inputs (and, for the two network heads, the weights) behind the single-stage golden vectors are
made.
Everything comes from NumPy's legacy generator, seeded by a name, so large inputs need not be stored."""

import zlib

import numpy as np

# own stick figure, one row per COCO joint, in units of (0.45 height, height)
FIGURE = np.array(
    [
        [0.50, 0.08],
        [0.54, 0.06],
        [0.46, 0.06],
        [0.58, 0.08],
        [0.42, 0.08],
        [0.66, 0.22],
        [0.34, 0.22],
        [0.74, 0.38],
        [0.26, 0.38],
        [0.76, 0.52],
        [0.24, 0.52],
        [0.60, 0.52],
        [0.40, 0.52],
        [0.61, 0.75],
        [0.39, 0.75],
        [0.60, 0.97],
        [0.40, 0.97],
    ]
)
STRIDES = (8, 16, 32, 64, 128)


def rng(name, seed):
    """The generator that belongs to one named input."""
    return np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)


def people(name, seed, width, height, n=None, empty=True):
    """Persons of one picture: keypoints (n,17,3) float32 px, v in 0/1/2 (v=0 has x=y=0), box xywh (n,4)
    float32 px, area (n,).
    Coordinates are multiples of 0.25, some lie outside the picture; with `empty` some persons have no
    labelled joint."""
    r = rng("people " + name, seed)
    n = int(r.randint(1, 7)) if n is None else n
    kps, boxes = np.zeros((n, 17, 3)), np.zeros((n, 4))
    for i in range(n):
        h = height * np.exp(r.uniform(np.log(0.12), np.log(0.95)))
        corner = np.array([r.uniform(0, width) - 0.225 * h, r.uniform(0, height) - 0.5 * h])
        xy = corner + FIGURE * [0.45 * h, h] + r.normal(0, 0.03 * h, (17, 2))
        v = r.choice(3, 17, p=[0.15, 0.15, 0.7])
        if empty and r.rand() < 0.12:
            v[:] = 0
        elif v.sum() == 0:
            v[:] = 2
        lo, hi = (
            np.clip(xy.min(0) - 0.05 * h, 0, [width - 2, height - 2]),
            np.clip(xy.max(0) + 0.05 * h, 2, [width, height]),
        )
        hi = np.maximum(hi, lo + 2)
        kps[i, :, :2], kps[i, :, 2], boxes[i] = (
            np.round(xy * 4) / 4,
            v,
            np.round(np.concatenate([lo, hi - lo]) * 4) / 4,
        )
        kps[i, v == 0, :2] = 0
    return (
        kps.astype(np.float32),
        boxes.astype(np.float32),
        (boxes[:, 2] * boxes[:, 3] * 0.5).astype(np.float32),
    )


def centernet_maps(seed, batch=2, height=40, width=48):
    """Head outputs for the CenterNet decoder, float32, (batch, C, height, width); hm and hm_hp are
    probabilities.
    Twelve persons a picture; a joint's peak lies near, or deliberately too far from, the regressed
    joint, or is missing."""
    r = rng("centernet maps", seed)
    out = {
        "hm": 0.05 * r.rand(batch, 1, height, width),
        "hm_hp": 0.05 * r.rand(batch, 17, height, width),
        "wh": 6 + 12 * r.rand(batch, 2, height, width),
        "hps": 4 * r.randn(batch, 34, height, width),
        "reg": r.rand(batch, 2, height, width),
        "hp_offset": r.rand(batch, 2, height, width),
    }
    yy, xx = np.mgrid[:height, :width]
    for b in range(batch):
        for _ in range(12):
            cx, cy, size = r.randint(2, width - 2), r.randint(2, height - 2), r.uniform(6, 20)
            out["hm"][b, 0] = np.maximum(
                out["hm"][b, 0], r.uniform(0.2, 0.95) * np.exp(-((xx - cx) ** 2 + (yy - cy) ** 2) / 3)
            )
            out["wh"][b, :, cy, cx] = [0.6 * size, 1.1 * size]
            for j in range(17):
                d = (FIGURE[j] - 0.5) * [0.45 * size, size] + r.normal(0, 0.05 * size, 2)
                out["hps"][b, 2 * j : 2 * j + 2, cy, cx] = d
                px, py = np.array([cx, cy]) + d + r.normal(0, r.choice([0.03, 0.3]) * size, 2)
                p = r.choice([0, 0.08, 0.3, 0.9]) * r.uniform(0.9, 1)
                out["hm_hp"][b, j] = np.maximum(
                    out["hm_hp"][b, j], p * np.exp(-((xx - np.floor(px)) ** 2 + (yy - np.floor(py)) ** 2) / 2)
                )
    return {k: v.astype(np.float32) for k, v in out.items()}


def tensor(name, shape, seed, scale=1.0, shift=0.0):
    """A named float32 normal array: shift + scale * N(0,1)."""
    return (shift + scale * rng(name, seed).standard_normal(shape)).astype(np.float32)


def weight(name, shape, seed):
    """One entry of a head's state dict, float32: convolutions N(0, 2/fan_in), norm weights 1+0.1N,
    every other vector 0.1N."""
    r = rng("weight " + name, seed).standard_normal(shape)
    if len(shape) == 4:
        return (r * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
    return ((1 + 0.1 * r) if name.endswith("weight") else 0.1 * r).astype(np.float32)


def psa_stage2_anchors(scene, level, seed, anchors, keypoints):
    """Second-stage anchors of one level, (m,34) float32: 15 percent sit near a true pose, the others
    near the first-stage anchor."""
    r = rng(f"psa stage2 {scene} {level}", seed)
    near, who = r.rand(len(anchors)) < 0.15, r.randint(0, len(keypoints), len(anchors))
    out = np.where(near[:, None], keypoints[who][:, :, :2].reshape(-1, 34), anchors)
    return (
        out + r.normal(0, 1, out.shape) * np.where(near, r.choice([0.5, 3, 12], len(anchors)), 6)[:, None]
    ).astype(np.float32)
