"""Makes the numbers of this folder from the full ones:  python tests/data/golden_peers/ship.py FOLDER

Kept is seed 0 of what is small. Nothing is rounded. `rule.py` is the full folder's, laid out by ruff.
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
NAMES = [f"centernet_{part}_0" for part in ("decode", "gaussian", "losses", "targets")]
NAMES += [f"directpose_{part}_0" for part in ("decode", "head", "targets")]
NAMES += ["psa_anchors", "psa_assign_0", "psa_head_0", "psa_heat_0", "spm_paper_0"]
LARGE = ("gluon_kpt_0", "author_kpt_0", "gluon_heatmap")  # of the head's largest map


def shipped(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    "File name -> arrays, from the full folder."
    full = {f"{name}.npz": dict(np.load(folder / f"{name}.npz", allow_pickle=False)) for name in NAMES}
    return {name: {k: v for k, v in z.items() if k not in LARGE} for name, z in full.items()}


if __name__ == "__main__":
    for name, arrays in shipped(Path(sys.argv[1])).items():
        np.savez_compressed(HERE / name, **arrays)
