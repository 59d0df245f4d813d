"""figures/readme.png: what the shipped weights find in six validation pictures of rendered people.

python benchmarks/readme_picture.py"""

from PIL import Image

from smpr.data import load_set
from smpr.inference import load, predict
from smpr.settings import load_settings


def main() -> None:
    settings = load_settings()
    val = load_set(settings.data / "val" / "images", settings.data / "val" / "person_keypoints.json")
    crowd = [r for r in val.records if 2 <= (r.areas > 3000).sum() <= 4]  # several large people
    model = load("rendered", "cpu")
    sheet = Image.new("RGB", (3 * 480, 2 * 360))
    for n, r in enumerate(crowd[:6]):
        picture = predict(model, val.images / r.file).draw(0.25).resize((480, 360))
        sheet.paste(picture, (480 * (n % 3), 360 * (n // 3)))
    sheet.quantize(256).save(settings.figures / "readme.png", optimize=True)


if __name__ == "__main__":
    main()
