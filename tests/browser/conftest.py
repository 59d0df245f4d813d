"""A JupyterLab of our own on the loopback address, and Debian's Chromium to look at it."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OVERRIDES = {
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # every cell stays in the page
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Iterator[tuple[str, str, Path]]:
    "A running JupyterLab: its address, its token and the folder that it serves."
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed: pip install -e '.[test]'")
    home, port, token = tmp_path_factory.mktemp("lab"), free_port(), secrets.token_hex(16)
    for name in ("settings", "files"):
        (home / name).mkdir()
    (home / "settings" / "overrides.json").write_text(json.dumps(OVERRIDES))
    folders = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "RUNTIME", "DATA")} | {
        "IPYTHONDIR": str(home / "ipython")
    }
    places = {"PYTHONPATH": str(ROOT), "SMPR_DATA": str(ROOT / "data" / "people")}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={home / 'files'}",
        f"--LabApp.app_settings_dir={home / 'settings'}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.extension_manager=readonly",
    ]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            command, env=os.environ | folders | places, cwd=home, stdout=log, stderr=log
        )
    try:
        address, until = f"http://127.0.0.1:{port}", time.time() + 180
        while True:
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None or time.time() > until:
                    pytest.fail(f"JupyterLab did not start:\n{(home / 'log').read_text()[-2000:]}")
                time.sleep(0.5)
        yield address, token, home / "files"
    finally:
        server.terminate()
        server.wait(timeout=60)


@pytest.fixture(scope="session")
def browser():
    "Debian's Chromium under Playwright."
    api = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install -e '.[test]'"
    )
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium, or make browser as root")
    with api.sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield chromium
        chromium.close()
