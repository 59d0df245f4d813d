"""Numbers that must agree: AP with pycocotools and faster-coco-eval, batches with singles, mirrored pictures,
number formats, devices."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import pad

from smpr.data import load_set, read_image
from smpr.evaluation import METRICS, evaluate
from smpr.experiments.findings import read_detections
from smpr.inference import TestConfig, candidates, find_poses, fit_picture, load, select
from smpr.representation import oks
from smpr.settings import load_settings
from smpr.structures import Poses

# What must hold: places in pictures of 320x240 at most so many px apart, or, where rounding or group norm
# moves them, poses this alike.
BOUNDS = {
    "batch_and_singles": {"largest_px": 1e-3},
    "padding_64_px_more": {"lowest_oks": 0.95},
    "mirrored_with_flip_test": {"largest_px": 1e-3},
    "bfloat16": {"lowest_oks": 0.95},
    "gpu": {"largest_px": 0.1},
}


def within(name: str, found: dict) -> bool:
    "Whether a comparison of `compare_poses` keeps its bound and no pose was lost."
    ((what, bound),) = BOUNDS[name].items()
    return not found["lost"] and (found[what] <= bound if what == "largest_px" else found[what] >= bound)


def raw(net, images: list[np.ndarray], config: TestConfig) -> torch.Tensor:
    "The dense poses of a batch, in strides from their locations."
    packs = [fit_picture(im, config.short, config.long) for im in images]
    with torch.inference_mode():
        return net(
            net.normalize(torch.cat([p[0] for p in packs]), torch.tensor([p[1] for p in packs])).contiguous(
                memory_format=torch.channels_last
            )
        ).pose


def committed() -> list[Path]:
    "The detections files that came with the project."
    found = sorted((load_settings().figures / "results").glob("*/*.detections.json.gz"))
    return [path for path in found if "-mini-" not in path.name]  # drawn people have a truth of their own


def truth_of(path: Path) -> Path | None:
    "The annotation file that a detections file belongs to, as its record says; None where it is not here."
    record = json.loads(path.with_name(path.name.replace(".detections.json.gz", ".json")).read_text())
    file = load_settings().data / "val" / "person_keypoints.json"
    return (
        file
        if file.exists() and record["data"]["val_pictures"] == len(json.loads(file.read_text())["images"])
        else None
    )


def stats(module, evaluator, truth: Path, results: list[dict]) -> list[float]:
    "The ten numbers of a COCO evaluation library."
    with contextlib.redirect_stdout(io.StringIO()):
        gt = module(str(truth))
        run = evaluator(gt, gt.loadRes([dict(r) for r in results]), "keypoints")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(v) for v in list(run.stats)[:10]]


def compare_ap(files: list[Path]) -> dict:
    """The largest difference over ten numbers and all files: ours from pycocotools alone and from
    faster-coco-eval."""
    from faster_coco_eval import COCO as FastCOCO
    from faster_coco_eval import COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    plain, fast, done = [], [], 0
    for path in files:
        if (truth := truth_of(path)) is None:
            continue
        results = read_detections(path)
        ours = [evaluate(truth, results)[m] for m in METRICS]
        plain.append(np.abs(np.subtract(ours, stats(COCO, COCOeval, truth, results))).max())
        fast.append(np.abs(np.subtract(ours, stats(FastCOCO, COCOeval_faster, truth, results))).max())
        done += 1
    return {
        "files": done,
        "pycocotools": float(max(plain, default=0)),
        "faster_coco_eval": float(max(fast, default=0)),
    }


def pictures(count: int) -> list[np.ndarray]:
    "The first validation pictures; all of one size."
    folder = load_settings().data / "val"
    poses = load_set(folder / "images", folder / "person_keypoints.json")
    return [read_image(poses.images / r.file, r.size) for r in poses.records[:count]]


def look_at(
    net, images: list[np.ndarray], config: TestConfig, extra: int = 0, bf16: bool = False
) -> list[Poses]:
    "The poses of a batch of pictures of one size, padded by `extra` px more than needed."
    packs = [fit_picture(im, config.short, config.long) for im in images]
    x = pad(torch.cat([p[0] for p in packs]), (0, extra, 0, extra)).to(net.mean.device)
    with torch.inference_mode(), torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        pred = net(
            net.normalize(x, torch.tensor([p[1] for p in packs])).contiguous(
                memory_format=torch.channels_last
            )
        )
    found = [
        select(candidates(pred, i, size, factor, config.decode), config.decode)
        for i, (_, size, factor) in enumerate(packs)
    ]
    return [Poses(p.keypoints.float().cpu(), p.scores.float().cpu()) for p in found]


def apart(a: list[Poses], b: list[Poses], net, least: float = 0.2) -> dict:
    """How far two runs over the same pictures differ, for poses above `least`: px to the nearest pose of the
    other, its OKS, and scores."""
    px, similar, score, lost = [0.0], [1.0], [0.0], 0
    for p, q in zip(a, b, strict=True):
        for k, s in zip(p.keypoints[p.scores > least], p.scores[p.scores > least]):
            if not len(q.scores):
                lost += 1
                continue
            box = k.amax(0) - k.amin(0)
            near = oks(
                q.keypoints,
                torch.cat([k, torch.full((len(k), 1), 2.0)], 1)[None],
                box.prod()[None],
                net.sigmas.cpu(),
            )[:, 0]
            best = int(near.argmax())
            px.append((q.keypoints[best] - k).norm(dim=-1).max().item())
            similar.append(near[best].item())
            score.append(abs(q.scores[best] - s).item())
    return {
        "poses": len(px) - 1,
        "largest_px": round(max(px), 6),
        "lowest_oks": round(min(similar), 6),
        "largest_score": round(max(score), 8),
        "lost": lost,
    }


def compare_poses(count: int = 16) -> dict:
    "Batches and singles, padding, mirrored pictures, number formats, devices; with the shipped weights."
    torch.set_num_threads(1)
    net, images = load("rendered", "cpu"), pictures(count)
    config, both = net.test, replace(net.test, flip=True)
    single = [look_at(net, [im], config)[0] for im in images]
    together = look_at(net, images, config)
    turned = [find_poses(net, np.ascontiguousarray(im[:, ::-1]), both) for im in images]

    def swap(k, width):
        return k[:, list(net.skeleton.flip_order)] * torch.tensor([-1.0, 1]) + torch.tensor(
            [width - 1.0, 0]
        )  # not the package's own: it is what is looked at

    back = [Poses(swap(p.keypoints, im.shape[1]), p.scores) for p, im in zip(turned, images)]
    outputs = (
        (raw(net, images, config) - torch.cat([raw(net, [im], config) for im in images])).abs().max().item()
    )
    out = {
        "pictures": count,
        "batch_and_singles": apart(together, single, net) | {"largest_output": outputs},
        "padding_64_px_more": apart(look_at(net, images, config, 64), single, net),
        "mirrored_with_flip_test": apart([find_poses(net, im, both) for im in images], back, net),
        "bfloat16": apart(single, [look_at(net, [im], config, bf16=True)[0] for im in images], net),
    }
    if torch.cuda.is_available():
        out["gpu"] = apart(single, [look_at(load("rendered", "cuda"), [im], config)[0] for im in images], net)
    else:
        out["gpu"] = "not run: this machine has no CUDA GPU"
    return out
