"""Makes the numbers of this folder from the full ones:  python tests/data/golden/ship.py FOLDER

Kept are seed 0, every detection, loss, target, gradient norm and soft-NMS case; of long arrays `LONG` rows,
evenly
spaced, whose indices `rows_pI` holds. Nothing is rounded. `rule.py` is the full folder's, laid out by ruff.
"""

import lzma
import re
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SEED = 0
LONG = 160  # rows kept of a level's outputs
OUTPUT = re.compile(r"(cls|score|initial|refined)(_px)?_p(\d)|heatmap_p(3)")


def thinned(full: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    "The arrays of one file, the outputs of each level at `LONG` of their locations."
    out, locations = {}, {}
    for name, values in full.items():
        found = OUTPUT.fullmatch(name)
        if found is None:
            out[name] = values
            continue
        level, count = int(found[3] or found[4]), values.shape[-2]
        rows = np.unique(np.linspace(0, count - 1, LONG).astype(int))
        locations[level] = full["p3_sample"][rows] if level == 3 and "p3_sample" in full else rows
        out[name] = values[..., rows, :]
    if "p3_sample" in full:
        out["p3_sample"] = locations.pop(3)
    return out | {f"rows_p{level}": rows for level, rows in locations.items()}


def shipped(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    "File name -> arrays, from the full folder."
    files = sorted(folder.glob(f"*_{SEED}.npz"))
    return {p.name: thinned(dict(np.load(p))) for p in files}


if __name__ == "__main__":
    source = Path(sys.argv[1])
    for name, arrays in shipped(source).items():
        np.savez_compressed(HERE / name, **arrays)
    (HERE / "state_dict_shapes.json.xz").write_bytes(
        lzma.compress((source / "state_dict_shapes.json").read_bytes())
    )
