"""What the generator of rendered people costs, and how its people compare with COCO's.

    python benchmarks/render.py [--count 300] [--coco FILE] [--prototype FILE]

Writes figures/results/rendered_statistics.json (speed, memory, same bytes, statistics of each set) and the
contact sheet figures/rendered_sheet.jpg. Of a COCO set whose images name `coco_split`, only the val2017 part
counts: there every person has a box. Needs pip install 'smpr[render]'."""

import argparse
import hashlib
import io
import json
import multiprocessing
import resource
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from smpr.rendering.people import RenderConfig, body_model, render_picture, render_set
from smpr.settings import SmprError, atomic_write, load_settings
from smpr.skeleton import COCO17


def cost(count: int) -> dict:
    "Seconds of one core for a picture, memory after a third and all of them; alone in its process."
    render_picture(body_model(), RenderConfig(), 99, 0)
    began, peaks = time.process_time(), []
    for n in range(count):
        render_picture(body_model(), RenderConfig(), 99, n)
        if n in (count // 3, count - 1):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return {
        "pictures": count,
        "seconds_a_picture": round((time.process_time() - began) / count, 3),
        "peak_mb_after_a_third": round(peaks[0]),
        "peak_mb": round(peaks[-1]),
    }


def fingerprint(folder: Path) -> str:
    "One hash of all files of a set."
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest()


def same_bytes(count: int = 6) -> bool:
    "Are the files of one worker those of two?"
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        for folder, workers in ((one, 1), (two, 2)):
            render_set(Path(folder), count, seed=98, workers=workers)
        return fingerprint(Path(one)) == fingerprint(Path(two))


def read_part(file: Path) -> dict:
    "A COCO file; of a mixed one only the pictures of val2017."
    content = json.loads(file.read_text())
    content["images"] = [i for i in content["images"] if i.get("coco_split", "val2017") == "val2017"]
    return content


def describe_set(content: dict) -> dict:
    "Numbers about a COCO set's people, crowds left out; heights and boxes are relative to the picture."
    size = {i["id"]: (i["width"], i["height"]) for i in content["images"]}
    people = [a for a in content["annotations"] if not a.get("iscrowd") and a["image_id"] in size]
    known = [a for a in people if a.get("num_keypoints")]
    if not known:
        raise SmprError("the set has nobody with keypoints; describe one that has")
    many = Counter(a["image_id"] for a in people)
    each = np.array([many[i] for i in size])
    w, h = np.array([size[a["image_id"]] for a in known], float).T
    x, y, wide, high = np.array([a["bbox"] for a in known], float).T
    v = np.array([a["keypoints"][2::3] for a in known])
    edge, behind = 0.015, _behind(known, people)  # annotators' boxes often end a few pixels before the border
    cut = [x < edge * w, y < edge * h, x + wide > (1 - edge) * w, y + high > (1 - edge) * h]
    cut = zip(("left", "top", "right", "bottom", "any"), [*cut, np.any(cut, 0)], strict=True)
    return {
        "pictures": len(size),
        "persons": len(people),
        "with keypoints": len(known),
        "persons a picture": [float((each == k).mean()) for k in range(5)] + [float((each > 4).mean())],
        "height": _spread([a["bbox"][3] / size[a["image_id"]][1] for a in people]),
        "box width / height": _spread(wide / np.maximum(high, 1)),
        "at the border": {side: float(c.mean()) for side, c in cut},
        "behind another box": [float((behind > t).mean()) for t in (0.1, 0.3, 0.6)],
        "visibility": [float((v == k).mean()) for k in range(3)],
        "visibility by keypoint": [(v == k).mean(0).round(4).tolist() for k in range(3)],
    }


def _spread(values) -> list[float]:
    "Percentiles 5, 25, 50, 75 and 95."
    return np.percentile(values, [5, 25, 50, 75, 95]).round(4).tolist()


def _behind(known: list[dict], people: list[dict]) -> np.ndarray:
    "For each person with keypoints: the largest share of the box that one other person's box covers."
    by, out = {}, []
    for a in people:
        by.setdefault(a["image_id"], []).append(a)
    for a in known:
        x, y, w, h = a["bbox"]
        shared = [
            max(0, min(x + w, p[0] + p[2]) - max(x, p[0])) * max(0, min(y + h, p[1] + p[3]) - max(y, p[1]))
            for p in (b["bbox"] for b in by[a["image_id"]] if b is not a)
        ]
        out.append(max(shared, default=0) / max(w * h, 1e-9))
    return np.array(out)


def score_truth(file: Path) -> dict[str, float]:
    "AP of a set's truth given as detections, for keypoints, boxes and masks: 1.0, or something is wrong."
    out = {}
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        for kind, field in (("keypoints", "keypoints"), ("bbox", "bbox"), ("segm", "segmentation")):
            found = [a for a in truth.dataset["annotations"] if kind != "keypoints" or a["num_keypoints"]]
            ours = [{k: a[k] for k in ("image_id", "category_id", field)} | {"score": 1.0} for a in found]
            run = COCOeval(truth, truth.loadRes(ours), kind)
            run.evaluate()
            run.accumulate()
            run.summarize()
            out[kind] = float(run.stats[0])
    return out


def sheet(folder: Path, content: dict, columns: int = 6, rows: int = 4) -> Image.Image:
    "The first pictures of a set; every second row repeats the one above with skeletons."
    by, width, height = {}, content["images"][0]["width"], content["images"][0]["height"]
    for a in content["annotations"]:
        by.setdefault(a["image_id"], []).append(a)
    whole = Image.new("RGB", (columns * (width + 4), 2 * rows * (height + 4)), "white")
    for k, image in enumerate(content["images"][: columns * rows]):
        picture = Image.open(folder / "images" / image["file_name"]).convert("RGB")
        place = (k % columns * (width + 4), k // columns * 2 * (height + 4))
        whole.paste(picture, place)
        pen = ImageDraw.Draw(picture)
        for a in by.get(image["id"], []):
            draw_skeleton(pen, np.array(a["keypoints"]).reshape(-1, 3))
        whole.paste(picture, (place[0], place[1] + height + 4))
    return whole


def draw_skeleton(pen: ImageDraw.ImageDraw, p: np.ndarray) -> None:
    "Bones yellow, keypoints green where visible and red where hidden."
    for i, j in COCO17.edges:
        if p[i, 2] and p[j, 2]:
            pen.line([*p[i, :2], *p[j, :2]], fill=(255, 210, 0), width=2)
    for x, y, v in p[p[:, 2] > 0]:
        colour = (60, 220, 60) if v == 2 else (230, 40, 40)
        pen.ellipse([x - 2.5, y - 2.5, x + 2.5, y + 2.5], fill=colour)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--count", type=int, default=300)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--coco", type=Path, default=Path("../shared/coco/train/person_keypoints.json"))
    arguments.add_argument(
        "--prototype", type=Path, default=Path("../shared/synth/train/person_keypoints.json")
    )
    from smpr.experiments.records import environment  # here: the worker that is measured needs no torch

    a, figures, began = arguments.parse_args(), load_settings().figures, time.time()
    path = figures / "results" / "rendered_statistics.json"
    sets = json.loads(path.read_text())["sets"] if path.exists() else {}
    folder = load_settings().runs / "rendered" / f"s{a.seed}-{a.count}"
    content = json.loads(render_set(folder, a.count, seed=a.seed, workers=a.workers).read_text())
    for name, file in (("COCO", a.coco), ("prototype", a.prototype)):
        if file.exists():
            sets[name] = describe_set(read_part(file))
        else:
            print(f"{file}: not there; the numbers of '{name}' stay as they are")
    sets = {name: sets[name] for name in ("COCO", "prototype") if name in sets} | {
        "this chapter": describe_set(content)
    }
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        measured = pool.apply(cost, (60,))
    record = {
        "cost": measured,
        "same_bytes_for_1_and_2_workers": same_bytes(),
        "truth_as_detections": score_truth(folder / "person_keypoints.json"),
        "jpeg_kb": round(np.mean([p.stat().st_size for p in (folder / "images").iterdir()]) / 1000, 1),
        "seed": a.seed,
        "sets": sets,
        **environment(),
        "wall_seconds": round(time.time() - began, 1),
    }
    atomic_write(path, json.dumps(record, indent=1) + "\n")
    sheet(folder, content).save(figures / "rendered_sheet.jpg", quality=82)
    print(json.dumps({k: v for k, v in record.items() if k != "sets"}, indent=1))


if __name__ == "__main__":
    main()
