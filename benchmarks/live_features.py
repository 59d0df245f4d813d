"""How many of the features that the deformable convolution gathers are alive, in runs on drawn people.

    python benchmarks/live_features.py RUN_FOLDER_OR_WEIGHTS ...

A feature after a ReLU that is 0 in every cell of every picture has no gradient: it is dead. The second pose
and q see nothing else than these features; where they are dead both are constants of their level. Prints for
each level: mean of the pose tower's features and of the gathered ones, channels that are above 0 anywhere,
share of cells and channels above 0, the standard deviation over likely cells of the second pose's offsets
(strides) and of q."""

import sys
from pathlib import Path

import numpy as np
import torch

from smpr.inference import load
from smpr.run_folder import load_run
from smpr.world.people import WorldConfig, draw_picture


@torch.inference_mode()
def count(net, images: torch.Tensor) -> list[str]:
    "A line for each level."
    head, lines = net.eval().head, []
    for i, m in enumerate(net.neck(net.backbone(net.normalize(images))[net.used])):
        person, pose = head.person_tower(m), head.pose_tower(m)
        gathered, gathered_person = head.aggregation(pose, person, head.initial(pose, i))
        p, _, _, q = head.level(m, i)
        likely, delta = p.sigmoid()[:, 0] > 0.05, head.delta(gathered, i)
        live = [int((g.amax((0, 2, 3)) > 0).sum()) for g in (gathered, gathered_person)]
        said = f"stride {net.config.strides[i]:3}: tower {pose.mean():.3f}, gathered {gathered.mean():.4f}"
        said += f", live {live[0]} of {gathered.shape[1]} (person {live[1]})"
        said += f", above 0 {(gathered > 0).float().mean():.3f}"
        said += f", second offsets vary {delta.permute(1, 0, 2, 3)[:, likely].std(1).mean():.4f}"
        lines.append(said + ("" if q is None else f", q varies {q.sigmoid()[:, 0][likely].std():.3f}"))
    return lines


if __name__ == "__main__":
    pictures = np.stack([draw_picture(WorldConfig(), 77, n).image for n in range(32)])
    for name in sys.argv[1:]:
        net = load_run(Path(name)) if Path(name).is_dir() else load(name, "cpu")
        print(name, *count(net, torch.from_numpy(pictures).permute(0, 3, 1, 2)), sep="\n  ")
