"""The training loop: resuming, limits, averages, accumulation, other skeletons, bad numbers."""

import json
import shutil
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from smpr.cli import Train, main, open_network, scheduled
from smpr.config import from_dict
from smpr.data import load_set
from smpr.evaluation import METRICS, evaluate
from smpr.run_folder import find_checkpoint, load_checkpoint, load_run, read_log, seal
from smpr.settings import SmprError, compute_dtype
from smpr.skeleton import COCO17, Skeleton
from smpr.training import Keeper, RunConfig, measure, step_batches, train
from smpr.update import Config, backward_batch, make_state, small_config, train_step

PEOPLE = Path(__file__).parent.parent / "data" / "people"
QUIET = dict(workers=0, device="cpu", progress=False)


def people(split: str, count: int):
    return load_set(PEOPLE / split / "images", PEOPLE / split / "person_keypoints.json").subset(range(count))


def tiny(**changes) -> Config:
    "A network and pictures so small that a step takes a moment."
    base = small_config(steps=4, batch=4)
    return replace(
        base,
        model=replace(base.model, width=16, norm_groups=4, heatmap_width=16, tower_depth=1, frozen_stages=0),
        data=replace(base.data, short=72, long=96),
        test=replace(base.test, short=72, long=96),
        train=replace(base.train, **changes),
    )


def tensors(run: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run / "last" / f"{name}.safetensors")


@pytest.fixture(scope="module")
def uncut(tmp_path_factory) -> tuple[Path, dict]:
    "A run of four steps, never interrupted."
    run = tmp_path_factory.mktemp("uncut") / "run"
    return run, train(tiny(), people("train", 10), run, people("val", 3), log_every=1, **QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("workers", (0, 1))
def test_resume_is_exact(uncut, tmp_path, workers):
    "Cut after one step and after three: the same weights, average, optimiser and log, bit for bit."
    for steps in (1, 3, None):
        summary = train(
            tiny(), people("train", 10), tmp_path, steps=steps, log_every=1, **QUIET | {"workers": workers}
        )
    assert summary["step"] == 4 and summary["steps"] == 1
    for name in ("model", "ema", "optimizer"):
        a, b = tensors(uncut[0], name), tensors(tmp_path, name)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), name

    def losses(run):
        return [(r["step"], r["total"]) for r in read_log(run) if "total" in r]

    assert losses(tmp_path) == losses(uncut[0]) and len(losses(tmp_path)) == 4


def test_resume_after_a_crash(uncut, tmp_path):
    "Killed between checkpoints: the run goes on from the last one and the log forgets what never happened."
    train(tiny(), people("train", 10), tmp_path, steps=2, log_every=1, **QUIET)
    (tmp_path / "last").rename(tmp_path / "last.old")  # killed between the two renames of a save ...
    with (tmp_path / "log.jsonl").open("a") as f:
        f.write('{"step": 3, "total": 1.0}\n{"step": 4, "to')  # ... and while writing the log
    train(tiny(), people("train", 10), tmp_path, log_every=1, **QUIET)
    assert all(torch.equal(t, tensors(tmp_path)[k]) for k, t in tensors(uncut[0]).items())
    assert [r["step"] for r in read_log(tmp_path)] == [1, 2, 3, 4]


def test_same_seed_same_run(uncut, tmp_path):
    "Another seed gives another network; a run that is done is not trained again."
    train(tiny(seed=1), people("train", 10), tmp_path, steps=1, **QUIET)
    assert any(not torch.equal(t, tensors(tmp_path)[k]) for k, t in tensors(uncut[0]).items())
    before = (uncut[0] / "last" / "state.json").read_bytes()
    again = train(tiny(), people("train", 10), uncut[0], **QUIET)
    assert again["steps"] == 0 and set(again["metrics"]) == set(METRICS)
    assert {k: again[k] for k in ("metrics", "losses", "history")} == {
        k: uncut[1][k] for k in ("metrics", "losses", "history")
    }
    assert (uncut[0] / "last" / "state.json").read_bytes() == before


def test_run_folder(uncut):
    run, summary = uncut
    assert set(METRICS) == set(summary["metrics"]) and summary["losses"]["total"] > 0
    assert from_dict(Config, json.loads((run / "config.json").read_text())["config"]) == tiny()
    assert {"lr", "gradient", "pictures_per_second", "memory_gib", "heatmap"} <= set(read_log(run)[0])
    assert list((run / "tensorboard").glob("events*")) and not [
        f for f in run.rglob("*") if f.suffix in (".pt", ".pth", ".pkl", ".part", ".tmp")
    ]
    net = load_run(run)
    average = load_file(find_checkpoint(run / "best") / "ema.safetensors")
    assert not net.training and all(torch.equal(t, average[k]) for k, t in net.state_dict().items())


def test_limits(tmp_path):
    "--minutes and --steps stop early and saved; the plan of the rate stays."
    assert train(tiny(), people("train", 10), tmp_path / "a", minutes=0.0, log_every=1, **QUIET)["step"] == 1
    train(tiny(), people("train", 10), tmp_path / "b", steps=2, log_every=1, **QUIET)
    assert read_log(tmp_path / "a")[0]["lr"] == read_log(tmp_path / "b")[0]["lr"]
    assert (
        find_checkpoint(tmp_path / "a" / "last")
        and json.loads((tmp_path / "b" / "last" / "state.json").read_text())["step"] == 2
    )


def test_average_follows_the_weights(tmp_path):
    config, poses = tiny(ema=0.9, bf16=False), people("train", 10)
    state = make_state(config)
    path = [{k: v.clone() for k, v in state.net.state_dict().items()}]
    for batch in step_batches(config, poses, 0, 3, workers=0):
        train_step(state.net, state, batch, config)
        path.append({k: v.clone() for k, v in state.net.state_dict().items()})
    name, mean = "head.score.weight", path[0]["head.score.weight"].double()
    for n, weights in enumerate(path[1:], 1):
        d = min(0.9, (1 + n) / (10 + n))
        mean = d * mean + (1 - d) * weights[name].double()
    assert torch.allclose(state.ema.state[name].double(), mean, atol=1e-6) and not torch.equal(
        path[0][name], path[-1][name]
    )


@pytest.mark.parametrize("parts", (2, 3, 4))
def test_parts_equal_the_whole_batch(parts):
    "Gradient accumulation is exact although losses are divided by counts of the whole batch."
    config = tiny(bf16=False)
    batch = next(iter(step_batches(config, people("train", 10), 0, 1, workers=0)))
    grads = []
    for n in (1, parts):
        state = make_state(config)
        losses = backward_batch(
            state.net, state.net, batch, replace(config, train=replace(config.train, accumulate=n))
        )
        grads.append(
            (
                sum(losses.values()).item(),
                torch.cat([p.grad.flatten() for p in state.net.parameters() if p.requires_grad]),
            )
        )
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-5)
    assert (grads[0][1] - grads[1][1]).norm() < 1e-5 * grads[0][1].norm()


FIVE = ("nose", "left_shoulder", "right_shoulder", "left_hip", "right_hip")
SKELETON5 = Skeleton(
    FIVE,
    tuple(COCO17.sigmas[COCO17.names.index(n)] for n in FIVE),
    ((1, 2), (3, 4)),
    ((0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 4)),
)


@pytest.fixture
def five(tmp_path):
    "The people set with five keypoints."
    full = json.loads((PEOPLE / "train" / "person_keypoints.json").read_text())
    images = full["images"][:6]
    picks, notes = [COCO17.names.index(n) for n in FIVE], []
    for a in full["annotations"]:
        if a["image_id"] not in {im["id"] for im in images}:
            continue
        k = np.reshape(a.get("keypoints") or [0] * 51, (17, 3))[picks]
        notes.append(a | {"keypoints": k.flatten().tolist(), "num_keypoints": int((k[:, 2] > 0).sum())})
    path = tmp_path / "five.json"
    path.write_text(
        json.dumps(
            {
                "images": images,
                "annotations": notes,
                "categories": [{"id": 1, "name": "person", "keypoints": FIVE, "skeleton": []}],
            }
        )
    )
    return load_set(PEOPLE / "train" / "images", path, SKELETON5)


@pytest.mark.slow
def test_five_keypoints(five, tmp_path):
    "Any skeleton: a K = 5 network trains, gets better at its losses, is measured, saved and loaded."
    config = tiny(steps=12, warmup=2, lr=3e-3)
    summary = train(config, five, tmp_path / "run", five, log_every=1, **QUIET)
    rows = [r["total"] for r in read_log(tmp_path / "run") if "total" in r]
    assert np.mean(rows[-3:]) < 0.9 * np.mean(rows[:3]) and set(summary["metrics"]) == set(METRICS)
    net = load_run(tmp_path / "run")
    assert (
        net.skeleton == SKELETON5
        and net.head.initial.conv.out_channels == 10
        and measure(net, five, config.test, progress=False).keys() == summary["metrics"].keys()
    )
    truth = [
        {
            "image_id": r.id,
            "category_id": 1,
            "keypoints": [v for x, y, _ in k for v in (x, y, 1)],
            "score": 1.0,
        }
        for r in five.records
        for k in r.keypoints[(r.keypoints[..., 2] > 0).any(1)].tolist()
    ]
    assert evaluate(five.annotations, truth, SKELETON5)["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "has, half", (("AVX512", True), ("SVE256", True), ("AVX2", False), ("DEFAULT", False))
)
def test_bfloat16_where_the_processor_has_it(has, half, monkeypatch):
    "Elsewhere it would be emulated, several times slower than float32."
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: has)
    assert (compute_dtype(torch.device("cpu")) == torch.bfloat16) == half
    assert compute_dtype(torch.device("cpu"), False) == torch.float32


def test_without_bfloat16_a_run_is_that_of_float32(tmp_path, monkeypatch, capsys):
    "The same weights as with train.bf16 off, and a line that says so."
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    for name, asked in (("asked", True), ("off", False)):
        train(tiny(bf16=asked), people("train", 10), tmp_path / name, **QUIET | {"progress": asked})
    assert capsys.readouterr().err.count("training in float32: this device has no instructions") == 1
    asked, off = (tensors(tmp_path / name) for name in ("asked", "off"))
    assert all(torch.equal(asked[k], off[k]) for k in off)


def test_bad_numbers_stop_the_run(tmp_path):
    "A loss that is not finite names step and draws; the checkpoint before it is kept and loads."
    with pytest.raises(SmprError, match=r"step 2 \(draws 4 to 7, seed 0\).*checkpoint is kept"):
        train(tiny(lr=1e30, warmup=0, clip=0.0), people("train", 10), tmp_path, save_every=1, **QUIET)
    assert json.loads((tmp_path / "last" / "state.json").read_text())["step"] == 1
    state = make_state(tiny(lr=1e30, warmup=0, clip=0.0))
    assert (
        load_checkpoint(tmp_path / "last", state, tiny(lr=1e30, warmup=0, clip=0.0))["step"]
        == state.step
        == 1
    )


def test_another_run_is_refused(uncut, tmp_path):
    "A folder that holds a run of other settings, another set or another network stays as it is."
    run = uncut[0]
    with pytest.raises(SmprError, match="train.lr"):
        train(tiny(lr=0.5), people("train", 10), run, **QUIET)
    with pytest.raises(SmprError, match="10 pictures"):
        train(tiny(), people("train", 9), run, **QUIET)
    with pytest.raises(SmprError, match="holds a run already"):
        train(tiny(), people("train", 10), run, resume=False, **QUIET)
    with pytest.raises(SmprError, match="start weights"):
        train(tiny(), people("train", 10), tmp_path / "x", start={"no.such": torch.zeros(1)}, **QUIET)
    other = replace(tiny(), test=replace(tiny().test, flip=True))
    assert train(other, people("train", 10), run, **QUIET)["step"] == 4
    (tmp_path / "broken" / "last").mkdir(parents=True)
    for f in (run / "last").iterdir():
        (tmp_path / "broken" / "last" / f.name).write_bytes(
            f.read_bytes()[:2000] if f.suffix == ".safetensors" else f.read_bytes()
        )
    with pytest.raises(SmprError, match="no intact checkpoint"):
        train(tiny(), people("train", 10), tmp_path / "broken", **QUIET)


def test_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    "A disk that fills up while saving."
    config, poses = tiny(), people("train", 10)
    train(config, poses, tmp_path, steps=1, **QUIET)
    import smpr.run_folder

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(smpr.run_folder, "write_tensors", full)
    with pytest.raises(SmprError, match="step 2 cannot be saved.*No space left"):
        train(config, poses, tmp_path, steps=2, **QUIET)
    assert (
        json.loads((tmp_path / "last" / "state.json").read_text())["step"] == 1
        and not (tmp_path / "last.part").exists()
    )


def test_batch_must_fit(monkeypatch):
    import smpr.training

    monkeypatch.setattr(smpr.training, "rank_world", lambda: (0, 3))
    with pytest.raises(SmprError, match="multiple of 3"):
        step_batches(tiny(), people("train", 4), 0, 1)
    monkeypatch.setattr(smpr.training, "rank_world", lambda: (0, 2))
    with pytest.raises(SmprError, match="accumulate"):
        step_batches(tiny(accumulate=3), people("train", 4), 0, 1)


def test_best_is_the_best(tmp_path):
    "A worse measurement does not replace the best checkpoint."
    config, poses = tiny(), people("train", 4)
    state = make_state(config)
    keeper = Keeper(tmp_path, state, config, poses, poses, RunConfig(progress=False))
    import smpr.training

    for step, ap in enumerate((0.2, 0.5, 0.3), 1):
        state.step = step
        original = smpr.training.measure
        try:
            smpr.training.measure = lambda *a, ap=ap: dict.fromkeys(METRICS, ap)
            keeper.check()
        finally:
            smpr.training.measure = original
    keeper.log.board.close()
    saved = json.loads((tmp_path / "best" / "state.json").read_text())
    assert saved["step"] == 2 and saved["metrics"]["AP"] == state.best == 0.5


@pytest.mark.slow
def test_compiled_training_is_the_same_training(uncut, tmp_path, monkeypatch):
    """torch.compile is asked for once when somebody wants it, and never otherwise; with a compiler that
    changes nothing, nothing changes."""
    asked = []
    monkeypatch.setattr(torch, "compile", lambda net: asked.append(net) or net)
    train(tiny(), people("train", 10), tmp_path / "plain", steps=1, **QUIET)
    assert asked == []
    train(tiny(), people("train", 10), tmp_path / "compiled", compiled=True, log_every=1, **QUIET)
    assert len(asked) == 1
    for name, t in tensors(tmp_path / "compiled").items():
        assert torch.equal(t, tensors(uncut[0])[name]), name


def test_a_run_predicts_as_it_was_measured(uncut):
    "`load_run` brings the test settings of the run along, not the defaults: 72x96 px, not 800x1333."
    run, summary = uncut
    net, val = load_run(run), people("val", 3)
    assert net.test == replace(tiny().test, bf16=tiny().train.bf16) and net.test.short == 72
    assert measure(net, val, net.test, progress=False) == summary["metrics"]


def test_a_field_that_did_not_exist_counts_as_its_default(uncut, tmp_path, capsys):
    "A checkpoint written before an option existed is resumed with the default, and one line says so."
    run = tmp_path / "run"
    shutil.copytree(uncut[0], run)
    state = json.loads((run / "last" / "state.json").read_text())
    del state["config"]["data"]["mosaic"], state["config"]["train"]["backbone_lr"]
    state = {k: v for k, v in state.items() if k not in ("files", "digest")}
    (run / "last" / "state.json").write_text(json.dumps(seal(run / "last", state)))
    with pytest.raises(SmprError, match="backbone_lr"):  # 0.5 is not the default
        train(tiny(), people("train", 10), run, **QUIET)
    config = tiny(backbone_lr=1.0)
    assert train(config, people("train", 10), run, **QUIET)["steps"] == 0
    said = capsys.readouterr().err
    assert "mosaic" in said and "defaults count" in said
    with pytest.raises(SmprError, match="data.mosaic"):
        train(replace(config, data=replace(config.data, mosaic=0.5)), people("train", 10), run, **QUIET)


@pytest.mark.parametrize("option", ("steps", "eval_every", "save_every", "log_every"))
def test_options_are_checked(option, tmp_path):
    with pytest.raises(SmprError, match=f"{option} is 0"):
        train(tiny(), people("train", 10), tmp_path, **QUIET | {option: 0})


def test_one_step_is_found_in_few_calls(tmp_path, monkeypatch):
    "From the command to the optimiser: at most six calls, whose code lies in few files."
    stacks, real = [], torch.optim.AdamW.step

    def step(*args, **kwargs):
        frames = [f for f, _ in traceback.walk_stack(None) if "smpr" in f.f_globals["__name__"].split(".")]
        stacks.append([(f.f_globals["__name__"], f.f_code.co_name) for f in reversed(frames)])
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    monkeypatch.setenv("SMPR_WORKERS", "0")
    small = ["--train.batch", "2", "--data.short", "72", "--data.long", "96", "--model.width", "16"]
    small += ["--model.tower_depth", "1", "--model.norm_groups", "4", "--model.heatmap_width", "16"]
    assert main(["train", "--run", str(tmp_path / "run"), "--steps", "1", "--device", "cpu", *small]) == 0
    (path,) = stacks
    assert [name for _, name in path][-2:] == ["train", "train_step"] and len(path) + 1 <= 6, path
    assert len({module for module, _ in path}) <= 10, path


STATES = {
    "no number": {"step": "four"},
    "before the first": {"step": -1},
    "none": {"step": None},
    "beyond all": {"step": 10**400},
    "best": {"best": "good"},
    "rows": {"log_rows": -3},
    "pending": {"pending": 7},
    "pending rows": {"pending": [7]},
    "pending texts": {"pending": [{"total": "low"}]},
    "time": {"spent": "long"},
    "average": {"ema_updates": None},
    "no configuration": {"config": None},
    "a list": {"config": []},
    "a network": {"config": {"model": 5}},
}


QUICK = ("no number", "pending rows", "no configuration")  # the others take a second each
CASES = [pytest.param(c, marks=[pytest.mark.slow] * (c not in QUICK)) for c in STATES]


@pytest.mark.parametrize("case", CASES)
def test_a_state_made_by_hand(case, uncut, tmp_path, monkeypatch):
    "Well sealed, and no state of a training: one line, from Python and from the command."
    run = Path(shutil.copytree(uncut[0], tmp_path / "run"))
    for part in (p for p in run.iterdir() if (p / "state.json").is_file()):
        saved = json.loads((part / "state.json").read_text())
        saved = {k: v for k, v in saved.items() if k not in ("files", "digest")} | STATES[case]
        (part / "state.json").write_text(json.dumps(seal(part, saved)))
    calls = [lambda: train(tiny(), people("train", 10), run, **QUIET)]
    if "config" in STATES[case]:
        real = Train(preset="real-cpu", minutes=1)
        calls += [lambda: load_run(run), lambda: open_network(str(run), "cpu")]
        calls += [lambda: scheduled(real, tiny(), run, None, None, "cpu", 0)]
    for call in calls:
        with pytest.raises(SmprError) as e:
            call()
        assert str(run) in str(e.value) and "\n" not in str(e.value)
