"""Bad pictures, annotations and results: each works as COCO's tools would, or ends in one line that names
file and record."""

import contextlib
import copy
import io
import json
import math
import os
import signal
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from smpr.command.check import check_set
from smpr.config import printable
from smpr.data import load_set, read_image
from smpr.evaluation import evaluate
from smpr.settings import SmprError

PATIENCE = 60  # seconds until a case counts as hung
W, H = 80, 90
POSE = [v for k in range(17) for v in (20 + 2 * k, 10 + 3 * k, 2)]
FORMATS = ("png", "jpg", "webp", "gif", "bmp", "tif")


class Hung(BaseException):
    "A case took too long."


@dataclass(frozen=True)
class Case:
    """A name, and a call that returns nothing when the input was handled rightly and a text when something
    was wrong in silence."""

    name: str
    run: Callable[[], str | None]
    words: tuple[str, ...]  # what a refusal must contain


@contextlib.contextmanager
def patience(seconds: int = PATIENCE) -> Iterator[None]:
    "Raise `Hung` after so long."

    def ring(*_):
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(case: Case) -> tuple[str, str]:
    "refused_clearly, handled, silent, crashed or hung; and what was said."
    try:
        with patience():
            wrong = case.run()
    except Hung:
        return "hung", ""
    except SmprError as e:
        clear = "\n" not in str(e) and all(w in str(e) for w in case.words)
        return "refused_clearly" if clear else "silent", str(e)
    except Exception as e:
        return "crashed", f"{type(e).__name__}: {e}"
    return ("silent", wrong) if wrong else ("handled", "")


# pictures


def noise(mode: str = "RGB", seed: int = 0) -> Image.Image:
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    return picture.convert(mode)


def read(path: Path, size: tuple[int, int] | None) -> str | None:
    "Read a picture; what is wrong with what came back."
    found = read_image(path, size)
    if (
        found.dtype != np.uint8
        or found.ndim != 3
        or found.shape[2] != 3
        or size
        and found.shape[:2] != tuple(size)
    ):
        return f"{found.shape} {found.dtype}"


def huge(kind: str) -> bytes:
    "A file of a few hundred bytes whose head promises 60000 x 60000 px."
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, {"png": "PNG", "bmp": "BMP", "gif": "GIF"}[kind])
    data, side = bytearray(out.getvalue()), 60_000
    if kind == "png":
        import zlib

        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    if kind == "bmp":
        data[18:26] = struct.pack("<ii", side, side)
    if kind == "gif":
        data[6:10] = struct.pack("<HH", side, side)
    return bytes(data)


def picture_cases(folder: Path, cuts: int = 12, flips: int = 24) -> Iterator[Case]:
    "Files in every format, whole and damaged."
    rng = np.random.default_rng(0)
    for suffix in FORMATS:
        yield from _damaged_cases(folder, suffix, cuts, flips, rng)
    for mode, suffix in MODES:
        path = folder / f"mode-{mode.replace(';', '')}.{suffix}"
        noise(mode).save(path)
        yield _picture_case(f"mode {mode} as {suffix}", path)
    yield from _unusual_cases(folder)
    yield from _path_cases(folder)


MODES = [(mode, "png") for mode in ("L", "LA", "RGBA", "P", "1", "I;16")]
MODES += [("I;16", "tif"), ("CMYK", "jpg"), ("CMYK", "tif"), ("L", "jpg"), ("YCbCr", "jpg"), ("F", "tif")]
MODES += [("LAB", "tif"), ("RGBA", "webp"), ("P", "gif"), ("1", "tif")]


def _picture_case(name: str, path: Path, size: tuple[int, int] | None = (H, W)) -> Case:
    return Case(f"picture {name}", lambda: read(path, size), (printable(path.name[:40]),))


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _damaged_cases(folder: Path, suffix: str, cuts: int, flips: int, rng) -> Iterator[Case]:
    "One format: cut, with changed bytes, under another name, with text after it, with other content."
    noise().save(folder / f"whole.{suffix}")
    whole = (folder / f"whole.{suffix}").read_bytes()
    for n in range(cuts):
        part = _written(folder / f"cut{n}.{suffix}", whole[: len(whole) * n // cuts])
        yield _picture_case(f"{suffix} cut at {n}/{cuts}", part)
    for n in range(flips):
        damaged = bytearray(whole)
        for _ in range(1 + n % 4):
            value, end = int(rng.integers(256)), min(len(damaged), 600 if n % 2 else len(damaged))
            damaged[int(rng.integers(0, end))] = value
        yield _picture_case(
            f"{suffix} bytes changed {n}", _written(folder / f"flip{n}.{suffix}", bytes(damaged))
        )
    for other in FORMATS:
        yield _picture_case(f"{suffix} called {other}", _written(folder / f"{suffix}-as.{other}", whole))
    contents = {
        "more": ("with text after it", whole + b"and more" * 40),
        "zero": ("of zero bytes only", bytes(500)),
        "noise": ("of noise", rng.bytes(500)),
    }
    for name, (words, content) in contents.items():
        yield _picture_case(f"{suffix} {words}", _written(folder / f"{name}.{suffix}", content))
    yield _picture_case(f"{suffix}, another size in the record", folder / f"whole.{suffix}", (H, W + 1))


def _unusual_cases(folder: Path) -> Iterator[Case]:
    "Turned, enormous and moving pictures."
    for turn in range(0, 10):
        note = Image.Exif()
        note[0x0112] = turn
        noise().save(folder / f"turn{turn}.jpg", exif=note)
        for size in ((H, W), (W, H)):
            yield _picture_case(f"EXIF {turn} for {size}", folder / f"turn{turn}.jpg", size)
    for kind in ("png", "bmp", "gif"):
        for size in (None, (H, W), (60_000, 60_000)):
            path = _written(folder / f"huge.{kind}", huge(kind))
            yield _picture_case(f"{kind} that promises 60000 px, record {size}", path, size)
    for suffix in ("gif", "webp", "png", "tif"):
        noise().save(folder / f"moving.{suffix}", save_all=True, append_images=[noise(seed=1), noise(seed=2)])
        yield _picture_case(f"animated {suffix}", folder / f"moving.{suffix}")


def _path_cases(folder: Path) -> Iterator[Case]:
    "Folders, links, pipes and strange names where a picture is expected."
    (folder / "folder.png").mkdir(exist_ok=True)
    for link, target in (("loop.png", "loop.png"), ("lost.png", "nowhere.png")):
        (folder / link).unlink(missing_ok=True)
        (folder / link).symlink_to(target)
    if not (folder / "pipe.png").exists():
        os.mkfifo(folder / "pipe.png")
    names = ["folder.png", "loop.png", "lost.png", "pipe.png", "none.png", "x" * 300 + ".png"]
    names += ["/".join(["deep"] * 900) + ".png", "ein Bild für Ωß.png", "\ud800.png", "nul\0.png"]
    for name in names:
        yield _picture_case(f"path {name[:20]!r}", folder / name)
    noise().save(folder / "ein Bild für Ωß 人.png")
    yield _picture_case("unicode name", folder / "ein Bild für Ωß 人.png")


# annotation files


def person(id: int, image: int, **more) -> dict:
    return {
        "id": id,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "area": 900,
        "bbox": [20, 10, 40, 60],
        "num_keypoints": 17,
        "keypoints": list(POSE),
    } | more


def good() -> dict:
    "A correct set of two pictures and three persons."
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": W, "height": H} for i in (1, 2)],
        "annotations": [
            person(11, 1),
            person(12, 2),
            person(13, 2, area=2500, keypoints=[v + (5 if n % 3 < 2 else 0) for n, v in enumerate(POSE)]),
        ],
        "categories": [{"id": 1, "name": "person"}],
    }


RESULTS = [
    {
        "image_id": i,
        "category_id": 1,
        "keypoints": [v + (i if n % 3 < 2 else 0) for n, v in enumerate(POSE)],
        "score": 0.9 - 0.1 * i,
    }
    for i in (1, 2)
]


def plain_coco(path: Path, results: list[dict]) -> list[float]:
    "The ten numbers as pycocotools alone gives them."
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        run = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats.tolist()


def judge_document(folder: Path, data, text: str | None = None) -> str | None:
    "Load, check and score a set; what is wrong in silence. Raises the SmprError of loading or scoring."
    path = folder / "set.json"
    path.write_text(json.dumps(data) if text is None else text, encoding="utf-8", errors="surrogatepass")
    problems = check_set(folder, path, progress=False).problems
    try:
        poses = load_set(folder, path)
    except SmprError as e:
        return f"data check found nothing, yet: {e}" if not problems else _raise(e)
    if not all(np.isfinite(r.keypoints).all() and np.isfinite(r.areas).all() for r in poses.records):
        return "not finite"
    if text is not None:  # what was read, a byte order mark or not, is what the text says
        data = json.loads(text.removeprefix("\ufeff"))
    people = data["annotations"] if "annotations" in data else []
    wanted = sum(a.get("category_id") in (None, 1, "1") for a in people)  # null says nothing
    if sum(len(r.areas) for r in poses.records) != wanted:
        return "persons were lost"
    ids = {r.id for r in poses.records}
    results = [r for r in RESULTS if r["image_id"] in ids]
    ours = list(evaluate(path, results).values())
    if not all(map(math.isfinite, ours)):
        return "AP is not finite"
    said = [a | {"category_id": 1} if a.get("category_id", 1) is None else a for a in people]
    if said != people:  # null is nothing said here, and nobody's category for pycocotools
        path.write_text(json.dumps(data | {"annotations": said}))
    try:
        theirs = plain_coco(path, results) if results else None
    except Exception:
        return None  # more than pycocotools can do
    if theirs and not np.allclose(ours, theirs, atol=1e-12):
        return f"AP {ours[0]}, pycocotools {theirs[0]}"


def _raise(e: Exception):
    raise e


NASTY = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    2**31,
    2**63,
    2**64,
    -(2**70),
    10**400,
    1.5,
    -0.5,
    1e-300,
    1e7,
    1e300,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "1",
    "nose",
    "\ud800",
    "ü" * 200,
    "../../etc/passwd",
    "/etc/passwd",
    "..\\x.png",
    "a\0b",
    "x" * 5000,
    [],
    [1],
    [[]],
    [1, 2, 3, 4],
    [0] * 51,
    [1, 1, 2] * 17,
    [5] * 51,
    ["1"] * 51,
    [None] * 51,
    {},
    {"id": 1},
    [{}],
    [None],
)


def places(value, prefix: tuple = ()) -> list[tuple]:
    "Every place in a document where something can be put."
    out = []
    for key, v in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        out.append((*prefix, key))
        if len(prefix) < 3 or key in (0, 2, 50):
            out += places(v, (*prefix, key))
    return out


PLACES = [p for p in places(good()) if p[0] != "categories" and not (p[-1] in range(3, 50) and len(p) == 4)]


def changed(changes: list[tuple]):
    "The correct set with values put at places, or removed."
    data = good()
    for place, value, remove in changes:
        at = data
        try:
            for step in place[:-1]:
                at = at[step]
            if remove:
                del at[place[-1]]
            else:
                at[place[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            pass  # an earlier change took the place away
    return data


changes = st.lists(
    st.tuples(
        st.sampled_from(PLACES),
        st.sampled_from(NASTY) | st.floats() | st.integers() | st.text(max_size=5),
        st.booleans() if False else st.sampled_from((False, False, False, True)),
    ),
    min_size=1,
    max_size=3,
)


def handmade() -> dict[str, dict]:
    "Whole sets that somebody may bring."

    def people(n: int, **more):
        return {**good(), "annotations": [person(i + 1, 1, **more) for i in range(n)]}

    far = [v for k in range(17) for v in (-500 + 90 * k, 2000 - 60 * k, 2)]
    return {
        "500 persons in one picture": people(500),
        "nobody": people(0),
        "all crowd": people(4, iscrowd=1),
        "negative area": people(2, area=-5),
        "zero area": people(2, area=0),
        "boxes outside": people(2, bbox=[-500, -500, 3000, 3000]),
        "negative box": people(2, bbox=[10, 10, -5, -5]),
        "keypoints outside": people(2, keypoints=far),
        "nothing labelled": people(2, keypoints=[0] * 51, num_keypoints=0),
        "one keypoint": people(2, keypoints=[5, 5, 2] + [0] * 48, num_keypoints=1),
        "all at one place": people(2, keypoints=[5, 5, 2] * 17),
        "tiny area": people(2, area=1e-30),
        "no area": {**good(), "annotations": [{k: v for k, v in person(1, 1).items() if k != "area"}]},
        "num_keypoints wrong": people(2, num_keypoints=3),
        "another category": {**good(), "annotations": [person(1, 1), person(2, 1, category_id=2)]},
        "no categories": {k: v for k, v in good().items() if k != "categories"},
        "empty file name": {**good(), "images": [{"id": 1, "file_name": "", "width": W, "height": H}]},
        "K of 5": people(2, keypoints=POSE[:15]),
        "texts as ids": {
            **good(),
            "images": [{"id": "a", "file_name": "1.png", "width": W, "height": H}],
            "annotations": [person(1, "a")],
        },
        "ids of both kinds": {
            **good(),
            "images": [{"id": i, "file_name": "1.png", "width": W, "height": H} for i in (1, "b")],
        },
        "the same picture twice": {
            **good(),
            "images": [{"id": i, "file_name": "1.png", "width": W, "height": H} for i in (1, 2)],
        },
    }


TEXTS = {
    "empty": "",
    "a brace": "{",
    "cut": json.dumps(good())[:-30],
    "deep": "[" * 100_000,
    "zero bytes": "\0\1",
    "words": "not json",
    "a number": "5",
    "null": "null",
    "two documents": json.dumps(good()) * 2,
    "a list": "[]",
    "a byte order mark": "\ufeff" + json.dumps(good()),
    "a very long number": '{"images": ' + "9" * 5000 + "}",
    "the same key twice": '{"images": [], "images": '
    '[{"id": 1, "file_name": "1.png", "width": 80, "height": 90}]}',
}


def run_documents(folder: Path, examples: int, tell: Callable[[Case, str, str], None]) -> None:
    "Hand-made sets and texts, then so many found by hypothesis."
    for i in (1, 2):
        noise(seed=i).save(folder / f"{i}.png")
    for name, data in handmade().items():
        tell(*_told(Case(f"set: {name}", lambda data=data: judge_document(folder, data), ("set.json",))))
    for name, text in TEXTS.items():
        tell(
            *_told(Case(f"text: {name}", lambda text=text: judge_document(folder, None, text), ("set.json",)))
        )

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(changes)
    def search(found):
        tell(
            *_told(
                Case(
                    f"set with {[(p, 'removed' if gone else repr(v)[:40]) for p, v, gone in found]}",
                    lambda: judge_document(folder, changed(found)),
                    ("set.json",),
                )
            )
        )

    search()


def run_results(folder: Path, examples: int, tell: Callable[[Case, str, str], None]) -> None:
    "Results files with values put where they do not belong."
    path = folder / "truth.json"
    path.write_text(json.dumps(good()))
    spots = places(RESULTS)

    def judge(found) -> str | None:
        results = copy.deepcopy(RESULTS)
        for place, value, remove in found:
            at = results
            try:
                for step in place[:-1]:
                    at = at[step]
                if remove:
                    del at[place[-1]]
                else:
                    at[place[-1]] = copy.deepcopy(value)
            except (KeyError, IndexError, TypeError):
                pass
        ours = list(evaluate(path, results).values())
        if not all(map(math.isfinite, ours)):
            return "AP is not finite"
        try:
            theirs = plain_coco(path, results)
        except Exception:
            return None
        if not np.allclose(ours, theirs, atol=1e-12):
            return f"AP {ours[0]}, pycocotools {theirs[0]}"

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.lists(
            st.tuples(st.sampled_from(spots), st.sampled_from(NASTY), st.sampled_from((False, False, True))),
            min_size=1,
            max_size=2,
        )
    )
    def search(found):
        tell(
            *_told(
                Case(
                    f"results with {[(p, 'removed' if gone else repr(v)[:40]) for p, v, gone in found]}",
                    lambda: judge(found),
                    ("results",),
                )
            )
        )

    search()


def _told(case: Case) -> tuple[Case, str, str]:
    return (case, *outcome(case))


def try_all(documents: int = 1500, results: int = 300, cuts: int = 12, flips: int = 24) -> dict:
    "All cases; counts by outcome and kind, and every case that went wrong."
    by_kind, wrong = Counter(), []

    def tell(case: Case, what: str, said: str) -> None:
        by_kind[case.name.split()[0].rstrip(":"), what] += 1
        if what not in ("refused_clearly", "handled"):
            wrong.append(f"{case.name}: {what}: {said}"[:300])

    with tempfile.TemporaryDirectory() as name:
        for case in picture_cases(Path(name), cuts, flips):
            tell(*_told(case))
        run_documents(Path(name), documents, tell)
        run_results(Path(name), results, tell)

    def count(what):
        return sum(n for (_, w), n in by_kind.items() if w == what)

    kinds = sorted({k for k, _ in by_kind})
    return (
        {"attempted": sum(by_kind.values())}
        | {w: count(w) for w in ("refused_clearly", "handled", "silent", "crashed", "hung")}
        | {
            "by_kind": {k: {w: n for (kk, w), n in sorted(by_kind.items()) if kk == k} for k in kinds},
            "wrong": wrong[:50],
        }
    )
