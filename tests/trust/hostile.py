"""Files made to do harm: each must be refused by name, and its payload must not run."""

import io
import json
import os
import pickle
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from smpr.checkpoints import load_weights
from smpr.command.coco_files import unpack
from smpr.command.replay import replay_step
from smpr.config import to_dict
from smpr.data import load_set
from smpr.deploy.export import load_exported
from smpr.deploy.published import CheckpointKind, convert_checkpoint
from smpr.inference import load, predict, shipped_weights
from smpr.settings import SmprError
from smpr.skeleton import COCO17
from smpr.sources import find_sources
from trust.inputs import good, patience


class Payload:
    "What a pickle may do when it is opened: here, write a file."

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def pickles(folder: Path) -> Iterator[tuple[str, Callable]]:
    """Checkpoints that run code: as weights, as a published checkpoint, inside a state dict, under another
    ending."""
    for name, content in (
        ("alone", Payload(folder / "ran")),
        ("in a state dict", {"state_dict": {"a": Payload(folder / "ran")}}),
        ("beside tensors", {"a": torch.zeros(2), "b": Payload(folder / "ran")}),
    ):
        for suffix in (".pth", ".safetensors", ".pt2"):
            path = folder / f"{name}{suffix}"
            torch.save(content, path)
            yield f"pickle {name}{suffix}, load", lambda p=path: load(p, "cpu")
            yield (
                f"pickle {name}{suffix}, convert",
                lambda p=path: convert_checkpoint(p, folder / "out.safetensors", CheckpointKind.RESNET50_FPN),
            )


def header(path: Path, text: str | bytes, body: bytes = b"", length: int | None = None) -> Path:
    "A safetensors file with this header."
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(struct.pack("<Q", len(data) if length is None else length) + data + body)
    return path


def lying_headers(folder: Path) -> Iterator[tuple[str, Callable]]:
    "Headers that promise what the file does not hold."

    def t(dtype="F32", shape=(2,), offsets=(0, 8)):
        return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}

    heads = {
        "longer than the file": ("{}", b"", 10**6),
        "of 2**63 bytes": ("{}", b"", 2**63),
        "of all bits": ("{}", b"", 2**64 - 1),
        "no JSON": ("{" * 40, b"", None),
        "not text": (b"\xff" * 40, b"", None),
        "offsets beyond": (json.dumps({"a": t(offsets=(0, 800))}), bytes(8), None),
        "offsets backwards": (json.dumps({"a": t(offsets=(8, 0))}), bytes(8), None),
        "negative offsets": (json.dumps({"a": t(offsets=(-8, 0))}), bytes(8), None),
        "shape too large": (json.dumps({"a": t(shape=(2**40,))}), bytes(8), None),
        "shape that overflows": (json.dumps({"a": t(shape=(2**33, 2**33))}), bytes(8), None),
        "unknown type": (json.dumps({"a": t("F99")}), bytes(8), None),
        "overlap": (json.dumps({"a": t(), "b": t(offsets=(4, 12))}), bytes(12), None),
        "a hole": (json.dumps({"a": t(), "b": t(offsets=(16, 24))}), bytes(24), None),
        "deep": ('{"a":' + "[" * 5000 + "]" * 5000 + "}", b"", None),
    }
    for name, (text, body, length) in heads.items():
        path = header(folder / f"header {name}.safetensors", text, body, length)
        yield f"header {name}", lambda p=path: load(p, "cpu")

    def notes(config, **more):
        return json.dumps(
            {
                "__metadata__": {"config": json.dumps(config), "skeleton": json.dumps(to_dict(COCO17))}
                | more,
                "a": t(),
            }
        )

    configs = {
        "a network of a billion layers": {"tower_depth": 10**9},
        "a network of a billion channels": {"width": 10**9},
        "a million strides": {"strides": [8] * 10**5},
        "an unknown field": {"__class__": "os.system"},
        "a list": [1],
        "a text as width": {"width": "9" * 30},
        "an unknown backbone": {"backbone": "os.system"},
    }
    for name, config in configs.items():
        path = header(folder / f"config {name}.safetensors", notes(config), bytes(8))
        yield f"configuration of {name}", lambda p=path: load(p, "cpu")
    deep = header(
        folder / "notes.safetensors",
        json.dumps({"__metadata__": {"config": "[" * 10**5, "skeleton": "{}"}, "a": t()}),
        bytes(8),
    )
    yield "notes nested too deep", lambda: load_weights(deep)
    yield "a step to replay without one", lambda: replay_step(shipped_weights()["rendered"])


def test_settings(folder: Path) -> Iterator[tuple[str, Callable]]:
    "Good weights whose test settings would fill the memory or stop with a stack."
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    shipped = shipped_weights()["rendered"]
    with safe_open(shipped, "pt") as f:
        meta = f.metadata()
    for n, test in enumerate(
        (
            {"short": 10**9, "long": 10**9},
            {"short": 0},
            {"short": "big"},
            {"scales": [[1]]},
            {"scales": 5},
            {"decode": {"keep": "all"}},
            {"decode": 5},
        )
    ):
        path = folder / f"test{n}.safetensors"
        save_file(load_file(shipped), path, metadata=meta | {"meta": json.dumps({"test": test})})
        yield (
            f"test settings {test}",
            lambda p=path: predict(load(p, "cpu"), torch.zeros(48, 64, 3, dtype=torch.uint8).numpy()),
        )


def programs(folder: Path) -> Iterator[tuple[str, Callable]]:
    "Programs with the notes of `smpr export` whose inputs, constants or sizes are code that runs."
    ran, whole = folder / "ran", folder / "whole.pt2"
    example, sizes = (torch.zeros(4, 3),), ({0: torch.export.Dim("n")},)
    notes = dict.fromkeys(("config", "skeleton", "test", "digest"), "{}")
    torch.export.save(
        torch.export.export(torch.nn.ReLU(), example, dynamic_shapes=sizes), whole, extra_files=notes
    )
    pickled, opaque = io.BytesIO(), pickle.dumps(Payload(ran))
    torch.save((Payload(ran),), pickled)
    constant = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    constants = json.dumps({"config": {"a": constant}}).encode()
    call = f"__import__('os').mkdir({str(ran)!r})".encode()
    for name, changes in (
        ("inputs", {"sample_inputs/model.pt": lambda old: pickled.getvalue()}),
        (
            "constants",
            {"constants/model_constants_config.json": lambda old: constants, "opaque_obj_0": opaque},
        ),
        ("sizes", {"models/model.json": lambda old: re.sub(rb"Symbol\('s\d+'[^)]*\)", call, old)}),
    ):
        path = folder / f"{name}.pt2"
        with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
            for member in old.namelist():
                change = next((c for end, c in changes.items() if member.endswith(end)), bytes)
                new.writestr(member, change(old.read(member)))
            if "opaque_obj_0" in changes:
                new.writestr("whole/data/constants/opaque_obj_0", opaque)
        yield f"program that runs code in its {name}", lambda p=path: load_exported(p)
        yield f"program that runs code in its {name}, as weights", lambda p=path: load(p, "cpu")


def archives(folder: Path) -> Iterator[tuple[str, Callable]]:
    "Zips whose members climb out."
    for n, name in enumerate(
        ("../outside.txt", "/outside.txt", "a/../../outside.txt", "../" * 30 + "tmp/outside.txt")
    ):
        path = folder / f"slip{n}.zip"
        with zipfile.ZipFile(path, "w") as z:
            z.writestr(zipfile.ZipInfo(name), "x")
        yield f"zip with {name[:30]}", lambda p=path: unpack(p, folder / "inside", progress=False)
    (folder / "inside").mkdir(exist_ok=True)
    liar = folder / "big.zip"
    with zipfile.ZipFile(liar, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("a.txt", "x" * 100)
    data = bytearray(liar.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 2**32 - 2)  # 4 GB, says the directory ...
    liar.write_bytes(data)
    yield (
        "zip that promises more than the disk holds",
        lambda: _with_small_disk(lambda: unpack(liar, folder / "inside", progress=False)),
    )


def _with_small_disk(call: Callable):
    "... and the disk has 1 GB."
    import shutil

    real = shutil.disk_usage

    def small(path):
        return real(path)._replace(free=10**9)

    shutil.disk_usage = small
    try:
        return call()
    finally:
        shutil.disk_usage = real


def paths(folder: Path) -> Iterator[tuple[str, Callable]]:
    "Names in annotation files that leave the picture folder; links that lead in circles."
    for n, name in enumerate(
        (
            "../secret.png",
            "a/../../secret.png",
            "/etc/passwd",
            "..\\secret.png",
            "C:\\secret.png",
            "\\\\host\\share.png",
        )
    ):
        data = good()
        data["images"][1]["file_name"] = name
        path = folder / f"names{n}.json"
        path.write_text(json.dumps(data))
        yield f"annotations that name {name}", lambda p=path: load_set(folder, p)
    (folder / "round").mkdir(exist_ok=True)
    (folder / "round" / "again").symlink_to(folder / "round")
    (folder / "round" / "a.png").write_bytes(b"x")
    yield "a link to its own folder", lambda: find_sources([str(folder / "round" / "**" / "*.png")])
    (folder / "self.png").symlink_to("self.png")
    yield "a link to itself", lambda: predict(load("rendered", "cpu"), folder / "self.png")
    (folder / "self.safetensors").symlink_to("self.safetensors")
    yield "weights that are a link to themselves", lambda: load(folder / "self.safetensors", "cpu")


def try_hostile() -> dict:
    "All of them; which were refused in one line, and whether any payload ran."
    refused, wrong = 0, []
    with tempfile.TemporaryDirectory() as name:
        folder, attempted = Path(name), 0
        for kind in (pickles, lying_headers, test_settings, programs, archives, paths):
            for what, call in kind(folder):
                attempted += 1
                try:
                    with patience(20):
                        call()
                    wrong.append(f"{what}: accepted")
                except SmprError as e:
                    if "\n" in str(e):
                        wrong.append(f"{what}: {e}"[:200])
                    else:
                        refused += 1
                except BaseException as e:
                    wrong.append(f"{what}: {type(e).__name__}: {e}"[:200])
        for mark in ("ran", "outside.txt"):
            if list(folder.rglob(mark)):
                wrong.append(f"a payload ran: {mark}")
    return {"attempted": attempted, "refused": refused, "wrong": wrong}
