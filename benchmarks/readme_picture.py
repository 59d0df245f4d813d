"""The pictures of README.md. figures/readme_method.jpg: the diagram of chapter 00, as its notebook stores it;
figures/readme_photo.jpg: what `real` finds in the two photographs of people that come with scikit-image, an
astronaut (NASA, public domain) and a camera man (Lav Varshney, CC0), as it comes out: shipped test settings,
every pose of at least SHOWN.

python benchmarks/readme_picture.py"""

import base64
import json
from pathlib import Path

from PIL import Image
from skimage import data

from smpr.inference import load, predict
from smpr.settings import load_settings

SHOWN = 0.25  # score
WIDTH = 900  # px, of the photographs side by side
DIAGRAM = "1 backbone C3"  # a title that only the cell of the diagram has


def method() -> bytes:
    "The diagram of chapter 00, a JPEG file."
    book = Path(__file__).parent.parent / "nbs" / "00_one_page.ipynb"
    cell = next(
        c
        for c in json.loads(book.read_text())["cells"]
        if c["cell_type"] == "code" and DIAGRAM in "".join(c["source"])
    )
    pictures = [o["data"]["image/jpeg"] for o in cell["outputs"] if "image/jpeg" in o.get("data", {})]
    return base64.b64decode(pictures[0])


def photographs() -> Image.Image:
    "The astronaut and the camera man, both 512 px wide and high."
    model, side = load("real", "cpu"), WIDTH // 2
    sheet = Image.new("RGB", (WIDTH, side))
    for n, photo in enumerate((data.astronaut(), data.camera())):
        result = predict(model, Image.fromarray(photo))
        print(*(f"{s:.3f}" for s in result.scores if s >= SHOWN))
        drawn = result.draw(SHOWN, 2 * side / len(photo))  # shrunk by half: smooth limbs
        sheet.paste(drawn.resize((side, side), Image.Resampling.LANCZOS), (n * side, 0))
    return sheet


def main() -> None:
    figures = load_settings().figures
    (figures / "readme_method.jpg").write_bytes(method())
    photographs().save(figures / "readme_photo.jpg", quality=88, subsampling=0)


if __name__ == "__main__":
    main()
