"""Downloads from a small server on the loopback address that can break off, ignore ranges or lie."""
import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from smpr.full_training import COCO_PARTS, check_coco, download_coco, download_file, process_group, unzip, verify_zip
from smpr.settings import SmprError

BODY = bytes(range(256)) * 300


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        s, body = self.server, self.server.files.get(self.path)
        s.asked.append((self.path, self.headers["Range"]))
        if s.errors: return self.send_error(s.errors.pop(0))
        if body is None: return self.send_error(404)
        first = int(self.headers["Range"][6:-1]) if self.headers["Range"] and s.ranges else 0
        if first and first >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body) - first))
        if first: self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self.wfile.write(body[first:first + s.cuts.pop(0)] if s.cuts else body[first:])

    def log_message(self, *_): pass


@pytest.fixture
def server():
    s = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    s.files, s.asked, s.cuts, s.errors, s.ranges = {"/body": BODY}, [], [], [], True
    s.url = f"http://127.0.0.1:{s.server_port}"
    thread = threading.Thread(target=s.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield s
    s.shutdown()
    s.server_close()
    thread.join()


def fetch(server, path, **more):
    return download_file(f"{server.url}/body", path, progress=False, wait=0, **more)


def test_whole(server, tmp_path):
    assert fetch(server, tmp_path / "a" / "body", sha256=hashlib.sha256(BODY).hexdigest()).read_bytes() == BODY
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["body"]
    fetch(server, tmp_path / "a" / "body")
    assert len(server.asked) == 1                                # a complete file is not asked for again


def test_interrupted_then_resumed(server, tmp_path):
    server.cuts = [50_000]
    with pytest.raises(SmprError, match="run again to continue"): fetch(server, tmp_path / "body", tries=1)
    assert not (tmp_path / "body").exists() and (tmp_path / "body.part").read_bytes() == BODY[:50_000]
    assert fetch(server, tmp_path / "body").read_bytes() == BODY
    assert [r for _, r in server.asked] == [None, "bytes=50000-"]


def test_many_breaks_in_one_call(server, tmp_path):
    server.cuts = [20_000, 1, 20_000]
    assert fetch(server, tmp_path / "body").read_bytes() == BODY
    assert [r for _, r in server.asked] == [None, "bytes=20000-", "bytes=20001-", "bytes=40001-"]


def test_server_without_ranges(server, tmp_path):
    server.ranges, server.cuts = False, [50_000]
    assert fetch(server, tmp_path / "body").read_bytes() == BODY


def test_part_already_complete(server, tmp_path):
    (tmp_path / "body.part").write_bytes(BODY)
    assert fetch(server, tmp_path / "body").read_bytes() == BODY
    assert server.asked == [("/body", f"bytes={len(BODY)}-")]


def test_part_of_another_file(server, tmp_path):
    (tmp_path / "body.part").write_bytes(BODY + b"more")
    assert fetch(server, tmp_path / "body").read_bytes() == BODY


def test_busy_server_is_asked_again(server, tmp_path):
    server.errors = [503, 503]
    assert fetch(server, tmp_path / "body").read_bytes() == BODY and len(server.asked) == 3


@pytest.mark.parametrize("url, more, message", [("/nothing", {}, "404"), ("/body", {"sha256": "0" * 64}, "SHA-256")])
def test_hopeless(server, tmp_path, url, more, message):
    with pytest.raises(SmprError, match=message): download_file(server.url + url, tmp_path / "x", progress=False, **more)
    assert len(server.asked) == 1 and not (tmp_path / "x").exists()


def test_nobody_answers(server, tmp_path):
    server.server_close()
    with pytest.raises(SmprError, match="after 2 tries"): fetch(server, tmp_path / "body", tries=2)


def test_not_a_web_address(tmp_path):
    with pytest.raises(SmprError, match="web address"): download_file("file:///etc/hostname", tmp_path / "x", progress=False)


def test_full_disk(server, tmp_path, monkeypatch):
    monkeypatch.setattr("smpr.full_training.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(SmprError, match="are free"): fetch(server, tmp_path / "body")


def pack(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, content in members.items(): z.writestr(name, content)
    return out.getvalue()


def listing(*names: str) -> bytes:
    return json.dumps({"images": [{"id": i, "file_name": n} for i, n in enumerate(names)],
                       "annotations": [{"image_id": 0, "num_keypoints": n} for n in (0, 17)]}).encode()


@pytest.fixture
def coco(server):
    "A server with a COCO of three pictures."
    contents = {"train2017": {"train2017/a.jpg": b"a" * 99, "train2017/b.jpg": b"b" * 99}, "val2017": {"val2017/c.jpg": b"c"},
                "annotations_trainval2017": {"annotations/person_keypoints_train2017.json": listing("a.jpg", "b.jpg"),
                                             "annotations/person_keypoints_val2017.json": listing("c.jpg")}}
    for name, members in contents.items(): server.files[f"/{COCO_PARTS[name].url}"] = pack(members)
    return server


COUNTS = {"train2017": 2, "val2017": 1}


def test_coco(coco, tmp_path):
    assert len(download_coco(tmp_path, base_url=coco.url, progress=False)) == 3
    assert check_coco(tmp_path, COUNTS) == {"train2017": 2, "train2017 persons": 1, "val2017": 1, "val2017 persons": 1}
    assert not list(tmp_path.glob("*.zip*"))
    asked = len(coco.asked)
    assert download_coco(tmp_path, base_url=coco.url, progress=False) == [] and len(coco.asked) == asked


def test_coco_continues_an_interrupted_unpacking(coco, tmp_path):
    (tmp_path / "train2017").mkdir()
    (tmp_path / "train2017/a.jpg").write_bytes(b"a" * 7)                                  # killed while this one was written
    (tmp_path / "train2017.zip").write_bytes(coco.files["/zips/train2017.zip"])
    assert download_coco(tmp_path, ("train2017",), base_url=coco.url, progress=False) == ["train2017"]
    assert not coco.asked and sorted((tmp_path / "train2017").iterdir())[0].read_bytes() == b"a" * 99


@pytest.mark.parametrize("damage", [lambda z: z.replace(b"b" * 99, b"b" * 98 + b"X"), lambda z: z[:-40], lambda z: b""])
def test_damaged_zip(coco, tmp_path, damage):
    coco.files["/zips/train2017.zip"] = damage(coco.files["/zips/train2017.zip"])
    with pytest.raises(SmprError, match=r"train2017\.zip.*delete it and download again"):
        download_coco(tmp_path, ("train2017",), base_url=coco.url, progress=False)
    assert not (tmp_path / "train2017").exists()


def test_damage_is_seen_while_unpacking_too(coco, tmp_path):
    (tmp_path / "x.zip").write_bytes(coco.files["/zips/train2017.zip"].replace(b"b" * 99, b"b" * 98 + b"X"))
    with pytest.raises(SmprError, match="CRC"): unzip(tmp_path / "x.zip", tmp_path / "x", progress=False)


def test_members_stay_below_the_folder(tmp_path):
    (tmp_path / "x.zip").write_bytes(pack({"../outside": b"!", "/absolute": b"!"}))
    unzip(tmp_path / "x.zip", tmp_path / "in", progress=False)
    assert not (tmp_path / "outside").exists() and len(list((tmp_path / "in").iterdir())) == 2


def test_check_names_what_is_missing(coco, tmp_path):
    with pytest.raises(SmprError, match="person_keypoints_train2017.json"): check_coco(tmp_path)
    download_coco(tmp_path, base_url=coco.url, progress=False)
    with pytest.raises(SmprError, match="118,287"): check_coco(tmp_path)
    (tmp_path / "train2017/b.jpg").unlink()
    (tmp_path / "val2017/c.jpg").write_bytes(b"")
    with pytest.raises(SmprError, match="1 of 2 pictures are missing or empty, first b.jpg"): check_coco(tmp_path, COUNTS)
    with pytest.raises(SmprError, match="first c.jpg"): check_coco(tmp_path, {"val2017": 1})


def test_unknown_part(tmp_path):
    with pytest.raises(SmprError, match="unknown part"): download_coco(tmp_path, ("train2014",), progress=False)
    with pytest.raises(SmprError, match="no such file"): verify_zip(tmp_path / "none.zip")


def test_half_an_environment(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SmprError, match="torchrun"):
        with process_group("cpu"): pass
