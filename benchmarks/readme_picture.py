"""figures/readme.png: what the shipped weights `rendered` find in six validation pictures of rendered people;
figures/readme_photo.png: what `real` finds in the two photographs of people that come with scikit-image, an
astronaut (NASA, public domain) and a camera man (Lav Varshney, CC0), as it comes out: shipped test settings,
every pose of at least SHOWN.

python benchmarks/readme_picture.py"""

from PIL import Image
from skimage import data

from smpr.data import load_set
from smpr.inference import load, predict
from smpr.settings import load_settings

SHOWN = 0.25  # score
WIDTH = 900  # px, of the photographs side by side


def rendered_people() -> Image.Image:
    "Six pictures with several large people."
    settings = load_settings()
    val = load_set(settings.data / "val" / "images", settings.data / "val" / "person_keypoints.json")
    crowd = [r for r in val.records if 2 <= (r.areas > 3000).sum() <= 4]
    model = load("rendered", "cpu")
    sheet = Image.new("RGB", (3 * 480, 2 * 360))
    for n, r in enumerate(crowd[:6]):
        picture = predict(model, val.images / r.file).draw(SHOWN).resize((480, 360))
        sheet.paste(picture, (480 * (n % 3), 360 * (n // 3)))
    return sheet


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
    for name, sheet in (("readme", rendered_people()), ("readme_photo", photographs())):
        sheet.quantize(256).save(figures / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
