"""The rows of the bench: each function pairs ours with a naive version, with torchvision or with the
machine's limit. `bench.py` runs them."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from bench_memory import DEFORM_CASES, deform_inputs, differentiate, torchvision_deform
from timing import chapter_functions, in_fresh_process, matmul_peak, median_time, peak_mib, race
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import keypointrcnn_resnet50_fpn

import smpr.losses
from smpr.aggregation import DeformPath, deform_conv
from smpr.assignment import AssignConfig, Region, assign_regions, refinement_persons
from smpr.data import PoseSet, load_set, read_image
from smpr.deploy.export import (
    Deployed,
    dense_poses,
    difference,
    export_network,
    export_program,
    load_exported,
    make_notes,
    save_onnx,
    save_pt2,
)
from smpr.evaluation import coco_results, detect_set, evaluate, score_vs_oks
from smpr.experiments.frozen import head_losses, sample_picks, view_features
from smpr.experiments.rows import Row, make_scale, row_config, start_state
from smpr.fuse import fold_norms
from smpr.inference import (
    DecodeConfig,
    TestConfig,
    decode,
    find_poses,
    load,
    predict,
    predict_candidates,
    soft_nms,
)
from smpr.losses import Targets, heatmap_targets, stack_targets
from smpr.model import SMPR, ModelConfig, NeckName
from smpr.representation import decode_pose, level_locations, level_sizes, oks, pseudo_boxes
from smpr.scoring import score_targets
from smpr.settings import load_settings
from smpr.skeleton import COCO17, load_scene
from smpr.structures import People, Predictions
from smpr.training import step_batches
from smpr.update import Config, TrainState, make_state, small_config, train_step
from smpr.viz.assignment import AssignChoices, draw_choices
from smpr.viz.detections import ListChoices, PickChoices, draw_list, draw_pick
from smpr.viz.panels import as_png, corners

STRIDES = (8, 16, 32, 64, 128)
NAIVE = {"np": np, "torch": torch, "math": math, "Region": Region}


@dataclass(frozen=True)
class Line:
    "One row of the table. Every ratio is larger when ours is better."

    what: str
    against: str
    ours: float | None  # in `unit`; None: not run
    theirs: float | None
    ratio: float | None
    aim: float  # ratio that we want
    unit: str = "s"
    note: str = ""

    @property
    def verdict(self) -> str:
        return "not run" if self.ratio is None else "met" if self.ratio >= self.aim else "missed"


def versus(what: str, against: str, times: tuple[float, float], aim: float, note: str = "") -> Line:
    "A row of two times."
    return Line(what, against, *times, times[1] / times[0], aim, note=note)


def not_run(what: str, against: str, aim: float, unit: str = "s") -> Line:
    "A row that needs a GPU, on a machine without."
    return Line(
        what, against, None, None, None, aim, unit, "on a GPU: `python benchmarks/bench.py --device cuda`"
    )


def deform_lines(device: torch.device, rounds: int) -> Iterator[Line]:
    "Deformable convolution, forward and backward, beside torchvision's."
    gpu = device.type == "cuda"
    for shape, aim in DEFORM_CASES["gpu" if gpu else "cpu"]:
        name = f"deformable convolution, forward and backward, {'x'.join(map(str, shape))}"
        for dtype in (torch.float32, torch.bfloat16) if gpu else (torch.float32,):
            tensors = deform_inputs(shape, device, dtype)
            ours = partial(differentiate, deform_conv, tensors)
            theirs = partial(differentiate, torchvision_deform, tensors)
            with torch.no_grad():
                a, b = deform_conv(*tensors), torchvision_deform(*tensors)
            values = [((a - b).abs().max() / b.abs().max()).item()]
            gaps = values + [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours(), theirs())]
            right = "" if max(gaps) < 1e-4 or dtype != torch.float32 else "TOO LARGE; "
            yield versus(
                name,
                "torchvision",
                race(ours, theirs, device, rounds),
                aim,
                f"{right}{str(dtype)[6:]}; {'theirs is the default here; ' if gpu else ''}"
                f"largest relative difference of values and gradients {max(gaps):.0e}",
            )
        if gpu:
            mine, other = peak_mib(ours, device), peak_mib(theirs, device)
        else:
            mine, other = (
                in_fresh_process("bench_memory.py", which, *map(str, shape))["mib"]
                for which in ("ours", "torchvision")
            )
        yield Line(
            f"peak memory of the same, {'x'.join(map(str, shape))}",
            "torchvision",
            mine,
            other,
            other / mine,
            0.5,
            "MiB",
        )
    if not gpu:
        for shape, aim in DEFORM_CASES["gpu"]:
            yield not_run(
                f"deformable convolution on a GPU, float32 and bfloat16, {'x'.join(map(str, shape))}",
                "torchvision",
                aim,
            )


def crowd(count: int, size: int = 800) -> People:
    "People at random places of a picture. Seed 0."
    rng = np.random.default_rng(0)
    middle, scale = rng.uniform(100, size - 100, (count, 1, 2)), rng.uniform(15, 160, (count, 1, 1))
    k = torch.tensor(
        np.concatenate(
            [middle + scale * rng.normal(0, 0.5, (count, COCO17.K, 2)), np.full((count, COCO17.K, 1), 2)], -1
        ),
        dtype=torch.float32,
    )
    return People(k, pseudo_boxes(k), torch.tensor(scale[:, 0, 0] ** 2 * 2, dtype=torch.float32))


def chapter_loops() -> tuple[Callable, Callable, list[Callable]]:
    "The loops of the chapters: assignment, OKS; heatmap cells and heatmap targets."
    return (
        chapter_functions("03_assignment", "level_range_naive", "region_naive", "assign_naive", given=NAIVE)[
            -1
        ],
        chapter_functions("02_representation", "oks_naive", given=NAIVE)[0],
        chapter_functions("07_losses", "naive_classes", "naive_targets", given=NAIVE),
    )


def random_predictions(
    pictures: int,
    locations: torch.Tensor,
    strides: torch.Tensor,
    level_strides: tuple = STRIDES,
    K: int = COCO17.K,
) -> Predictions:
    "Predictions that say nothing, in the shape of real ones."
    P = len(locations)
    return Predictions(
        torch.zeros(pictures, P),
        torch.randn(pictures, P, 2 * K),
        torch.randn(pictures, P, 2 * K),
        torch.zeros(pictures, P),
        None,
        locations,
        strides,
        level_strides,
    )


def target_lines(device: torch.device, rounds: int) -> Iterator[Line]:
    "Assignment, OKS and heatmap targets beside the loops of their chapters."
    people, sigmas, config, N = crowd(20), torch.tensor(COCO17.sigmas), AssignConfig(), 8
    locations, strides = level_locations(level_sizes(800, 800, STRIDES), STRIDES)
    assign, oks_loop, (_, heatmap_loop) = chapter_loops()
    poses = locations[:, None] + torch.zeros(1, COCO17.K, 1)
    pred = random_predictions(N, locations, strides)
    fast, slow = partial(median_time, rounds=rounds), partial(median_time, rounds=1, warm=0)
    lists = poses.tolist(), people.keypoints.tolist(), people.areas.tolist(), sigmas.tolist()
    assigned, similar = (
        slow(lambda: assign(locations, strides, people.boxes, STRIDES, config)),
        slow(lambda: oks_loop(*lists)),
    )

    def line(what, ours, theirs, note="naive version timed once"):
        return versus(what, "the chapter's naive version", (ours, theirs), 100, note)

    yield line(
        f"first-stage assignment, {len(locations):,} locations x 20 persons",
        fast(lambda: assign_regions(locations, strides, people.boxes, STRIDES, config)),
        assigned,
    )
    yield line(
        "OKS matrix, the same", fast(lambda: oks(poses, people.keypoints, people.areas, sigmas)), similar
    )
    yield line(
        "heatmap targets, 8 pictures of 20 persons",
        fast(lambda: heatmap_targets([people] * N, (100, 100), 8, COCO17.K)),
        slow(lambda: [heatmap_loop(people.keypoints.tolist(), (100, 100), 8, COCO17.K) for _ in range(N)]),
    )
    yield line(
        "all targets of a batch of 8",
        fast(lambda: stack_targets(pred, [people] * N, sigmas, config)),
        N * (assigned + similar),
        "naive: 8 times the first two",
    )


def nms_lines(device: torch.device, rounds: int) -> Iterator[Line]:
    "Soft-NMS on 5,000 candidates."
    _, slow = chapter_functions("11_inference", "naive_iou", "naive_soft_nms", given=NAIVE)
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 700, (5000, 2)), rng.uniform(20, 200, (5000, 2))
    boxes, scores = (
        torch.tensor(np.concatenate([corner, corner + size], 1)),
        torch.tensor(rng.uniform(0, 1, 5000)),
    )
    order, values = (t.tolist() for t in soft_nms(boxes, scores))
    began = time.perf_counter()
    picked, left = slow(boxes.tolist(), scores.tolist())
    took = time.perf_counter() - began
    same = list(picked) == order and np.allclose(left, values, rtol=1e-9)
    yield versus(
        "Soft-NMS, 5,000 candidates",
        "the chapter's naive version",
        (median_time(lambda: soft_nms(boxes, scores), rounds=rounds), took),
        20,
        f"naive version timed once; result {'exact' if same else 'DIFFERS'}",
    )


PERSONS = {
    1: 1.0,
    2: None,
    5: None,
    10: 1.3,
    20: None,
    50: 2.0,
}  # people in the picture, and the ratio aimed at


def inference_lines(device: torch.device, rounds: int) -> Iterator[Line]:
    """A picture to poses: ours beside Keypoint R-CNN, both with random weights and as many people kept as the
    row says."""
    torch.manual_seed(0)
    ours = fold_norms(SMPR(ModelConfig(neck=NeckName.FPN)))  # as `load` does
    ours = ours.to(device, memory_format=torch.channels_last).eval()
    torch.nn.init.zeros_(ours.head.person.bias)  # everybody is likely: all candidates reach the selection
    peer = (
        keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, box_score_thresh=0.0).to(device).eval()
    )
    picture = torch.randint(0, 255, (1, 3, 800, 1088), dtype=torch.uint8)
    for dtype in (torch.float32, torch.bfloat16):
        half = torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
        for persons, aim in PERSONS.items():
            if aim is None and dtype == torch.bfloat16:
                continue
            peer.roi_heads.detections_per_img, few = persons, DecodeConfig(keep=persons)

            @torch.inference_mode()
            def mine():
                x = ours.normalize(picture.to(device)).contiguous(memory_format=torch.channels_last)
                with half:
                    return decode(ours(x), 0, (800, 1088), 1.0, few)

            @torch.inference_mode()
            def theirs():
                with half:
                    return peer([picture[0].to(device) / 255])[0]

            found = len(mine().scores), len(theirs()["scores"])
            yield versus(
                f"inference, ResNet-50 + FPN, 800x1088, {persons} person{'s' * (persons > 1)}",
                "torchvision Keypoint R-CNN",
                race(mine, theirs, device, rounds if aim else 3, 1),
                aim or 0.0,
                f"{str(dtype)[6:]}; persons out: {found[0]} and {found[1]}",
            )
    if device.type != "cuda":
        for persons, aim in PERSONS.items():
            if aim:
                yield not_run(
                    f"inference on a GPU, ResNet-50 + FPN, 800x1088, {persons} persons",
                    "torchvision Keypoint R-CNN",
                    aim,
                )


def export_lines(device: torch.device, rounds: int) -> Iterator[Line]:
    """A padded picture to dense poses, without the selection: PyTorch beside the exported files. On the CPU,
    whatever the device of the other rows."""
    torch.manual_seed(0)
    large = fold_norms(SMPR(ModelConfig(neck=NeckName.FPN)))  # as `load` does
    large = large.to(memory_format=torch.channels_last).eval()
    with TemporaryDirectory() as folder:
        for name, net, size in (
            ("shipped weights", load("rendered", "cpu"), (256, 320)),
            ("ResNet-50 + FPN, random weights", large, (800, 1088)),
        ):
            images, sizes = torch.randint(0, 255, (1, 3, *size), dtype=torch.uint8), torch.tensor([size])
            program = (
                torch.export.export(Deployed(net), (images, sizes)) if net is large else export_program(net)
            )  # one size converts in a fraction of the time

            @torch.inference_mode()
            def plain():
                return dense_poses(net, images, sizes)

            for kind, save in ((".onnx", save_onnx), (".pt2", save_pt2)):
                file = load_exported(save(program, make_notes(net), Path(folder) / f"net{kind}"), True)
                found = difference(plain(), file.dense(images, sizes))
                times = race(
                    lambda: file.dense(images, sizes), plain, rounds=3 if net is large else rounds, warm=1
                )
                yield versus(
                    f"dense poses of one picture, {name}, {'x'.join(map(str, size))}, "
                    f"{'ONNX Runtime' if kind == '.onnx' else kind}",
                    "PyTorch, eager, norms folded, channels last",
                    times,
                    0.0,
                    f"{torch.get_num_threads()} threads each; "
                    f"{'graph for this size alone' if net is large else 'graph for any size'}; "
                    f"without selection; largest difference {found.strides:.0e} strides, "
                    f"{found.probability:.0e} of a probability",
                )


def limit_lines(device: torch.device, rounds: int) -> Iterator[Line]:
    "Counted operations a second over those of the best large matrix product."
    gpu = device.type == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    net = fold_norms(SMPR(ModelConfig())).to(device, memory_format=torch.channels_last).eval()

    def share(size: tuple[int, int, int], training: bool) -> tuple[float, float]:
        x = torch.randn(size[0], 3, *size[1:], device=device).contiguous(memory_format=torch.channels_last)

        def work():
            with (
                torch.autocast(device.type, dtype=torch.bfloat16, enabled=gpu),
                torch.set_grad_enabled(training),
            ):
                pred = net(x)
            if training:
                (pred.person_logits.mean() + pred.pose.mean()).backward()

        with FlopCounterMode(display=False) as counter:
            work()
        peak = matmul_peak(device, dtype)
        seconds = median_time(work, device, rounds)
        return counter.get_total_flops() / seconds / 1e9, max(peak, matmul_peak(device, dtype)) / 1e9

    rows = [("inference, ResNet-50 + FPN, 800x1088", (1, 800, 1088), False, 0.4 if gpu else 0.55)] + [
        ("training, ResNet-50 + FPN, 800x800, batch 8", (8, 800, 800), True, 0.35)
    ] * gpu
    for name, size, training, aim in rows:
        rate, peak = share(size, training)
        yield Line(
            f"{name}, share of the machine",
            f"best matrix product, {str(dtype)[6:]}",
            rate,
            peak,
            rate / peak,
            aim,
            "GFLOP/s",
        )
    if not gpu:
        yield not_run(
            "inference on a GPU, ResNet-50 + FPN, 800x1088, share of the machine",
            "best matrix product, bfloat16",
            0.4,
            "GFLOP/s",
        )
        yield not_run(
            "training on a GPU, ResNet-50 + FPN, 800x800, batch 8, share of the machine",
            "best matrix product, bfloat16",
            0.35,
            "GFLOP/s",
        )


@contextmanager
def plain_parts() -> Iterator[None]:
    "Inside, smpr finds its targets with the loops of the chapters."
    assign, oks_loop, (classes_loop, _) = chapter_loops()

    def targets(
        pred: Predictions, n: int, people: People, sigmas: torch.Tensor, config: AssignConfig
    ) -> Targets:
        region = assign(pred.locations, pred.strides, people.boxes, pred.level_strides, config)
        poses = decode_pose(pred.initial[n].detach().float(), pred.locations, pred.strides)
        near = torch.tensor(
            oks_loop(poses.tolist(), people.keypoints.tolist(), people.areas.tolist(), sigmas.tolist()),
            dtype=torch.float32,
        )
        weight = near.amax(1) if near.shape[1] else near.new_zeros(len(near))
        return Targets(
            region,
            region if pred.refined is None else refinement_persons(region, near, config),
            weight,
            score_targets(near, None, config),
        )

    def classes(keypoints: torch.Tensor, size: tuple, stride: int) -> torch.Tensor:
        return torch.as_tensor(classes_loop(keypoints.tolist(), size, stride))

    kept = smpr.losses.make_targets, smpr.losses.heatmap_classes
    smpr.losses.make_targets, smpr.losses.heatmap_classes = targets, classes
    try:
        yield
    finally:
        smpr.losses.make_targets, smpr.losses.heatmap_classes = kept


def embedded(split: str, count: int) -> PoseSet:
    "The first pictures of the embedded people."
    folder = load_settings().data / split
    people = load_set(folder / "images", folder / "person_keypoints.json")
    return people.subset(range(min(count, len(people))))


def step_lines(device: torch.device, rounds: int) -> Iterator[Line]:
    """The training step of scale rendered (kept features) beside the plain one; its targets; and the loader
    beside the step of the small network that it feeds."""
    scale = make_scale("rendered")
    config = row_config(Row.PAFPN, scale.config)
    plain = replace(config, train=replace(config.train, bf16=False))
    with TemporaryDirectory() as folder:
        states = []
        for c in (config, plain):
            torch.manual_seed(0)
            net = SMPR(c.model).to(device, memory_format=torch.channels_last)
            net.load_state_dict(start_state(net, scale.start, scale.start_parts), strict=False)
            frozen = view_features(net, embedded("train", 64), c, 1, Path(folder))
            states.append(TrainState.of(net.train(), c))
        states[1].net.head.aggregation.path = DeformPath.OPERATOR

        def kept_step(state: TrainState, c: Config) -> dict[str, float]:
            batch = frozen.batch(sample_picks(state.step, len(frozen), c))
            return train_step(state.net, state, batch, c, head_losses)

        def quick():
            return kept_step(states[0], config)

        def slow():
            with plain_parts():
                kept_step(states[1], plain)

        times = race(quick, slow, device, rounds)
        yield versus(
            f"rendered training step, {config.train.batch} pictures",
            "torchvision's deformable convolution, float32, loops for targets",
            times,
            3,
            "backbone features kept on both sides",
        )
        people = frozen.people[: config.train.batch]
        locations, strides = level_locations(
            level_sizes(config.data.short, config.data.long, config.model.strides), config.model.strides
        )
        pred = random_predictions(len(people), locations, strides, config.model.strides)

        def both():
            return (
                stack_targets(pred, people, torch.tensor(COCO17.sigmas), config.assign),
                heatmap_targets(
                    people,
                    level_sizes(config.data.short, config.data.long, config.model.strides)[0],
                    config.model.strides[0],
                    COCO17.K,
                ),
            )

        yield Line(
            "all targets of the rendered training step",
            "the step",
            share := median_time(both, rounds=rounds),
            times[0],
            times[0] / share,
            20,
            note=f"{share / times[0]:.1%} of the step",
        )
    yield from loader_lines(device, rounds)


def loader_lines(device: torch.device, rounds: int) -> Iterator[Line]:
    "Decode, resize, augment, batch: beside the training step of the small network, and alone at 800 px."
    config = small_config()
    people = embedded("train", 400)

    def rate(c, workers: int, batches: int) -> float:
        "Seconds a batch, the workers' start left out."
        stream = iter(step_batches(c, people, 0, batches + 2, workers=workers))
        for _ in range(2):
            next(stream)
        began = time.perf_counter()
        for _ in stream:
            pass
        return (time.perf_counter() - began) / batches

    batch = next(iter(step_batches(config, people, 0, 1, workers=0)))
    state = make_state(config, people.skeleton, device)
    step = median_time(lambda: train_step(state.net, state, batch, config), device, rounds)
    load = rate(config, 2, 12)
    yield versus(
        f"loading a batch of {config.train.batch} at 320x240, two workers",
        "the small network's training step, which it feeds",
        (load, step),
        1,
        "pictures travel as uint8, normalised on the device",
    )
    large = replace(
        config,
        data=replace(config.data, short=800, long=1333, crop=800),
        train=replace(config.train, batch=8),
    )
    each = rate(large, 0, 2) / 8
    yield Line(
        "loading at 800 px, one worker",
        "one picture",
        each,
        None,
        None,
        0.0,
        note=f"pictures of 320x240 enlarged; 12 workers give {12 / each:.0f} pictures/s; "
        f"the GPU step it feeds is not run",
    )


def busy(work: Callable) -> float:
    "Processor seconds of one call: what else the machine does does not count."
    began = time.process_time()
    work()
    return time.process_time() - began


def panel_drawings() -> dict[str, tuple[Callable, type]]:
    "What the panels of the chapters draw, and their choices."
    scene, model, place = load_scene(), load("rendered", "cpu"), load_settings().data / "val"
    found = predict_candidates(
        model, scene.image, model.test.short, model.test.long, config=model.test.decode
    )
    people = load_set(place / "images", place / "person_keypoints.json").subset(range(24))
    results = [
        e
        for r in people.records
        for e in coco_results(find_poses(model, read_image(people.images / r.file), model.test), r.id)
    ]
    dots = score_vs_oks(results, people)
    return {
        "03": (lambda c: draw_choices(c, (scene,)), AssignChoices),
        "11": (lambda c: draw_list(c, scene.image, found), ListChoices),
        "12": (lambda c: draw_pick(c, results, people, *dots), PickChoices),
    }


def widget_lines(device: torch.device, rounds: int) -> Iterator[Line]:
    """One redraw of each panel of the chapters, PNG included, as it opens and at the slowest corner of its
    sliders."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for chapter, (draw, choices) in panel_drawings().items():

        def redraw(c):
            return as_png(draw(c))

        redraw(choices())
        slowest = max(
            (c for c in corners(choices) if not getattr(c, "scene", 0)), key=lambda c: busy(lambda: redraw(c))
        )
        for name, c in (("as it opens", choices()), ("at its slowest corner", slowest)):
            seconds = sorted(busy(lambda: redraw(c)) for _ in range(rounds))[rounds // 2]
            yield Line(
                f"redraw of the panel of chapter {chapter}, {name}",
                "150 ms",
                seconds,
                0.15,
                0.15 / seconds,
                1.0,
                note="processor time, one thread",
            )
    torch.set_num_threads(threads)


def throughput_lines(device: torch.device, rounds: int) -> Iterator[Line]:
    """Seconds a picture of `predict` and of measuring a set, reading included, in batches; beside Keypoint
    R-CNN, which keeps 10 people and shrinks pictures to the same size."""
    gpu, few = device.type == "cuda", embedded("val", 32)
    paths = [few.images / r.file for r in few.records]
    torch.manual_seed(0)
    large = fold_norms(SMPR(ModelConfig(neck=NeckName.FPN))).to(device, memory_format=torch.channels_last)
    large.eval()
    large.test = TestConfig(decode=DecodeConfig(score_threshold=0.0, keep=10))
    small = load("real", str(device))
    for name, net, sizes in (
        ("shipped weights `real`", small, (1, 8, 32)),
        ("ResNet-50 + FPN, random weights", large, (1, 8, 32) if gpu else (1, 8)),
    ):
        (short, long), decoding = net.test.passes[0], {"box_score_thresh": 0.0, "box_detections_per_img": 10}
        peer = keypointrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, min_size=short, max_size=long, **decoding
        )
        peer = peer.to(device).eval()
        for size in sizes:
            some = paths[: max(size, 8 if net is small else 4)]

            def mine():
                return predict(net, some, batch_size=size)

            @torch.inference_mode()
            def theirs():
                for first in range(0, len(some), size):
                    images = [torch.from_numpy(read_image(p)) for p in some[first : first + size]]
                    peer([image.permute(2, 0, 1).to(device) / 255 for image in images])

            times = race(mine, theirs, device, rounds if gpu else 1)
            yield versus(
                f"predict, {name}, batches of {size}, a picture",
                "torchvision Keypoint R-CNN, random weights",
                (times[0] / len(some), times[1] / len(some)),
                0.0,
                f"{len(some) / times[0]:.2f} and {len(some) / times[1]:.2f} pictures/s at {short} px",
            )
    for size in (1, 8, 32):
        part = few.subset(range(max(size, 8)))
        spent = median_time(
            lambda: evaluate(part, detect_set(small, part, small.test, False, size, 2)), device, 1, 1
        )
        yield Line(
            f"measuring a set, shipped weights `real`, batches of {size}, two workers, a picture",
            "none",
            spent / len(part),
            None,
            None,
            0.0,
            note=f"{len(part) / spent:.2f} pictures/s",
        )
    with TemporaryDirectory() as folder:
        on_cpu = load("real", "cpu")
        file = load_exported(export_network(on_cpu, Path(folder) / "real.onnx")[0])
        for size in (1, 8, 32):
            some = paths[: max(size, 8)]
            times = race(
                lambda: predict(file, some, batch_size=size),
                lambda: predict(on_cpu, some, batch_size=size),
                rounds=1,
            )
            yield versus(
                f"predict on a CPU, shipped weights `real`, ONNX Runtime, batches of {size}, a picture",
                "PyTorch",
                (times[0] / len(some), times[1] / len(some)),
                0.0,
                f"{len(some) / times[0]:.2f} and {len(some) / times[1]:.2f} pictures/s",
            )


SECTIONS = {
    "deform": deform_lines,
    "targets": target_lines,
    "nms": nms_lines,
    "inference": inference_lines,
    "export": export_lines,
    "throughput": throughput_lines,
    "limit": limit_lines,
    "step": step_lines,
    "widgets": widget_lines,
}
