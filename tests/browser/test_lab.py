"""The three panels in a real JupyterLab: a slider is dragged, the picture and the count change to what the
package computes."""

import base64
import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from smpr.data import load_set
from smpr.evaluation import detect_set, score_vs_oks
from smpr.inference import load, predict_candidates
from smpr.settings import load_settings
from smpr.skeleton import load_scene
from smpr.viz.assignment import AssignChoices, assign_scene, draw_choices
from smpr.viz.detections import ListChoices, PickChoices, draw_list, draw_pick, pick, thin_out
from smpr.viz.method import CellChoices, cell_of, draw_cell, look_inside
from smpr.viz.panels import as_png
from smpr.world.people import FIGURE, drawn_scene

PANEL = ".smpr-panel"
READ_PICTURE = """async image => {
    const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
    return btoa(Array.from(bytes, b => String.fromCharCode(b)).join(""));
}"""
RUN_ALL = """async () => {
    const app = window.jupyterapp;
    await app.restored;
    await app.commands.execute("notebook:run-all-cells");
}"""


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    "The same picture, but for the last digits of a network that chooses its convolutions by their speed."
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 0.5


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


class Shown:
    "A panel in the page."

    def __init__(self, page):
        self.page, self.box = page, page.locator(PANEL)
        self.box.scroll_into_view_if_needed()

    def caption(self) -> str:
        return self.box.locator(".widget-html-content").inner_text().strip()

    def picture(self) -> np.ndarray:
        return pixels(base64.b64decode(self.box.locator("img").evaluate(READ_PICTURE)))

    def drag(self, name: str, to: float) -> float:
        """Drag a slider's handle to a part of its way, and wait until the panel says something else; returns
        the value that the slider then shows."""
        row, before = self.box.locator(".widget-slider", has_text=name), self.caption()
        handle, way = row.locator(".noUi-handle").bounding_box(), row.locator(".noUi-base").bounding_box()
        y = handle["y"] + handle["height"] / 2
        self.page.mouse.move(handle["x"] + handle["width"] / 2, y)
        self.page.mouse.down()
        self.page.mouse.move(way["x"] + way["width"] * to, y, steps=6)
        self.page.mouse.up()
        self.changed(before)
        return float(row.locator(".widget-readout").inner_text())

    def changed(self, before: str) -> None:
        "Until the line under the controls is another one and stays for a second."
        self.page.wait_for_function(
            "([panel, old]) => "
            "document.querySelector(panel + ' .widget-html-content').innerText.trim() != old",
            arg=[PANEL, before],
            timeout=120_000,
        )
        last = None
        while last != (last := self.caption()):
            self.page.wait_for_timeout(1500)

    def shoot(self, name: str) -> None:
        "A small screenshot for figures/screens."
        folder = load_settings().figures / "screens"
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(io.BytesIO(self.page.screenshot())).convert("RGB").quantize(256).save(
            folder / f"{name}.png", optimize=True
        )


@pytest.fixture
def open_panel(lab, browser):
    "Opens a copy of a chapter, runs all its cells and finds its panel."
    address, token, files = lab
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.set_default_timeout(180_000)

    def open_chapter(chapter: str) -> Shown:
        notebook = json.loads((ROOT / "nbs" / f"{chapter}.ipynb").read_text())
        for cell in notebook["cells"]:
            cell.get("outputs", []).clear()  # only what is computed now can be found
        (files / f"{Path(chapter).name}.ipynb").write_text(json.dumps(notebook))
        page.goto(f"{address}/lab/tree/{Path(chapter).name}.ipynb?reset&token={token}")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"
        )
        page.evaluate(RUN_ALL)
        assert (
            page.locator(
                ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error'], "
                ".jp-RenderedText[data-mime-type$='stderr'] .ansi-red-fg"
            ).count()
            == 0
        )
        page.locator(f"{PANEL} img").wait_for()
        return Shown(page)

    yield open_chapter
    page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
    page.close()


def moved(shown: Shown, name: str, to: float, draw, choices):
    """Drag a slider; the picture must become another one, the one that the package draws. Returns the choices
    that the panel then stands for."""
    field, before = name.replace(" ", "_"), shown.picture()
    assert alike(before, pixels(as_png(draw(choices))))
    now = replace(choices, **{field: shown.drag(name, to)})
    figure = draw(now)
    assert getattr(now, field) != getattr(choices, field) and shown.caption() == figure.get_suptitle()
    assert alike(shown.picture(), pixels(as_png(figure))) and not alike(shown.picture(), before)
    return now


def test_one_page(open_panel):
    shown, image = open_panel("00_one_page"), drawn_scene().image
    inside = look_inside(load("drawn", "cpu"), image)
    now = moved(shown, "x", 0.8, lambda choices: draw_cell(choices, image, inside, FIGURE), CellChoices())
    (x, y), stride = inside.locations[cell_of(now, inside)].tolist(), 8
    assert f"cell ({x:.0f}, {y:.0f}) of P3" in shown.caption() and abs(x - now.x) <= stride / 2
    shown.shoot("one_page")


def test_assignment(open_panel):
    shown, scene = open_panel("viz/assignment"), load_scene()
    now = moved(shown, "half side", 0.7, lambda choices: draw_choices(choices, (scene,)), AssignChoices())
    positives = int((assign_scene(scene, now.config, now.enlarged).region >= 0).sum())
    assert int(shown.caption().split()[0]) == positives > int((assign_scene(scene).region >= 0).sum())
    shown.shoot("assignment")


def test_inference(open_panel):
    shown, scene, model = open_panel("viz/short_list"), load_scene(), load("rendered", "cpu")
    found = predict_candidates(
        model, scene.image, model.test.short, model.test.long, config=model.test.decode
    )
    now = moved(
        shown, "score threshold", 0.4, lambda choices: draw_list(choices, scene.image, found), ListChoices()
    )
    assert f" {len(thin_out(found, now).scores)} poses in the list" in shown.caption()
    assert int(shown.caption().split()[0]) == int((found.person > now.score_threshold).sum())
    shown.shoot("inference")


def test_evaluation(open_panel):
    shown, place = open_panel("viz/behind_a_dot"), load_settings().data / "val"
    model = load("rendered", "cpu")
    people = load_set(place / "images", place / "person_keypoints.json").subset(range(24))
    results = detect_set(model, people, model.test, progress=False)
    scores, best = score_vs_oks(results, people)
    draw = cache(lambda choices: draw_pick(choices, results, people, scores, best))
    now = moved(shown, "quality", 0.2, draw, PickChoices())
    assert shown.caption().startswith(f"detection {pick(scores, best, now) + 1} of {len(scores)}:")
    shown.shoot("evaluation")

    image, before = shown.box.locator("img"), shown.caption()
    target = int(best.argmax())  # click on the best detection of all
    x, y = draw(now).axes[0].transData.transform((scores[target], best[target]))
    size, (height, width) = image.bounding_box(), shown.picture().shape[:2]
    image.click(position={"x": x * size["width"] / width, "y": (height - y) * size["height"] / height})
    shown.changed(before)
    picked = int(shown.caption().split()[1]) - 1
    assert np.hypot(scores[picked] - scores[target], best[picked] - best[target]) < 0.02
