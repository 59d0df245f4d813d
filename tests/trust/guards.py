"""Guards that can be taken away, to see that a test notices: SMPR_WITHOUT=checksum python -m pytest
tests/test_trust.py."""

import contextlib
import json
import multiprocessing
import os
import pkgutil
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Guard:
    "One guard: what it does, how it is taken away, and the test that must fail then."

    does: str
    remove: Callable[[], None]
    notices: str


@dataclass(frozen=True)
class Put:
    """Called, it replaces `smpr.module.name` or `smpr.module.Class.name` by a value, or by what the value
    makes of it when it takes the real thing."""

    place: str
    value: object

    def __call__(self) -> None:
        path, name = self.place.rsplit(".", 1)
        target = pkgutil.resolve_name(f"smpr.{path}")
        value = self.value(getattr(target, name)) if isinstance(self.value, Wrap) else self.value
        setattr(target, name, value)


class Wrap:
    "Makes a replacement from the real thing."

    def __init__(self, make):
        self.make = make

    def __call__(self, real):
        return self.make(real)


def _forget_the_old(real):
    "Saving that clears its place first."

    def save(folder, *a, **k):
        for stale in (folder, folder.with_name(folder.name + ".old")):
            shutil.rmtree(stale, ignore_errors=True)
        return real(folder, *a, **k)

    return save


def _any_pickle() -> None:
    import torch

    real = torch.load

    def load_anything(*args, **options):
        return real(*args, **options | {"weights_only": False})

    torch.load = load_anything


def _extract_all(path, root, progress=True):
    with zipfile.ZipFile(path) as z:
        z.extractall(root)


def _nothing_was_left_to_do(real):
    "A keeper that takes every checkpoint for a measured one."

    def init(self, *a, **k):
        real(self, *a, **k)
        self.checked = self.state.step

    return init


@contextlib.contextmanager
def _no_lock(path):
    yield


@contextlib.contextmanager
def _bare(*a):
    yield


def _only_turned(keypoints, width, skeleton):
    import torch

    return torch.stack([width - 1 - keypoints[..., 0], keypoints[..., 1]], -1)


def _open(path):
    from PIL import Image

    return Image.open(path)


def _kill_at_once(self, number, frame=None):
    os._exit(128 + number)


GUARDS = {
    "checksum": Guard(
        "a damaged checkpoint is known by its checksum",
        Put("run_folder.check_seal", lambda folder: json.loads((folder / "state.json").read_text())),
        "test_damaged_checkpoint_is_named_and_skipped",
    ),
    "older checkpoint": Guard(
        "saving leaves the older checkpoint alone until the new one is whole",
        Put("training.save_checkpoint", Wrap(_forget_the_old)),
        "test_full_disk_while_training",
    ),
    "log in checkpoint": Guard(
        "a checkpoint knows how far the log was",
        Put("run_folder.RunLog.state", lambda self: {}),
        "test_killed_and_resumed",
    ),
    "measurement repeated": Guard(
        "a measurement that was cut is made again",
        Put("training.Keeper.__init__", Wrap(_nothing_was_left_to_do)),
        "test_killed_and_resumed",
    ),
    "stop signals": Guard(
        "SIGTERM and Ctrl-C wait for the checkpoint",
        Put("run_folder.StopSignals.note", _kill_at_once),
        "test_stopped_by_a_signal",
    ),
    "lost worker": Guard(
        "a lost worker is one line", Put("training.one_line_errors", _bare), "test_lost_worker"
    ),
    "bad step": Guard(
        "a step that is not finite is kept with its picture ids",
        Put("training.keep_bad_step", lambda *a: a[-1]),
        "test_bad_step_names_pictures_and_replays",
    ),
    "skipped people": Guard(
        "who is not trained on is listed",
        Put("run_folder.skipped_people", lambda poses: {}),
        "test_who_is_skipped_is_listed",
    ),
    "picture head": Guard(
        "the head of a picture is looked at before it is decoded",
        Put("sources.open_checked", _open),
        "test_bad_inputs",
    ),
    "person fields": Guard(
        "fields of a person are checked", Put("coco_format._PERSON_FIELDS", {}), "test_bad_inputs"
    ),
    "results entries": Guard(
        "a results entry's numbers are checked",
        Put("evaluation.check_results", lambda *a: None),
        "test_bad_inputs",
    ),
    "left and right": Guard(
        "what a mirrored picture calls left is right",
        Put("inference.unmirror", _only_turned),
        "test_poses_agree",
    ),
    "file names": Guard(
        "picture names stay below their folder", Put("coco_format._IMAGE_FIELDS", {}), "test_hostile_files"
    ),
    "no code in weights": Guard("pickles are read as tensors only", _any_pickle, "test_hostile_files"),
    "programs": Guard(
        "a program is opened only when its reader says that it is his own",
        Put("deploy.export.load_exported", Wrap(lambda real: lambda path, trust=True: real(path, True))),
        "test_hostile_files",
    ),
    "zip members": Guard(
        "archive members stay below their folder",
        Put("command.coco_files.unpack", _extract_all),
        "test_hostile_files",
    ),
    "limits of a network": Guard(
        "a configuration has limits",
        Put("model.ModelConfig.__post_init__", lambda self: None),
        "test_hostile_files",
    ),
    "journal": Guard(
        "predict knows what it has done",
        Put("command.media.Journal.knows", lambda *a: False),
        "test_predict_goes_on",
    ),
    "row lock": Guard(
        "two calls do not run one row",
        Put("experiments.runner.FileLock", _no_lock),
        "test_two_calls_make_a_row_once",
    ),
}


def remove_guard(name: str | None = None) -> None:
    "Take away the guard that is named, or that SMPR_WITHOUT names; nothing without a name."
    name = name or os.environ.get("SMPR_WITHOUT")
    if name:
        GUARDS[name].remove()


def _without(name: str, log: Path) -> None:
    "In a process of its own: the guard's test, without the guard; exit code 1 when the test fails."
    import pytest

    os.environ["SMPR_WITHOUT"] = name
    with log.open("w") as f, contextlib.redirect_stdout(f), contextlib.redirect_stderr(f):
        code = pytest.main(
            [
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                "-k",
                GUARDS[name].notices,
                str(Path(__file__).parent.parent / "test_trust.py"),
            ]
        )
    sys.exit(int(code))


def noticed(name: str, folder: Path) -> bool:
    "Whether the guard's test fails without the guard."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trust.kills", "trust.load", "trust.inputs"])
    tests = Path(__file__).parent.parent
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (tests, tests.parent)))
    process = context.Process(target=_without, args=(name, folder / f"{name}.log"))
    process.start()
    process.join()
    return process.exitcode == 1
