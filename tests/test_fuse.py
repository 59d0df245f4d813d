"""Networks with folded norms and quick depthwise gradients are ordinary networks: nothing in them is
patched."""

import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from smpr.deploy.export import Deployed
from smpr.fuse import DepthwiseConv, FoldedConv, FoldedNorm
from smpr.inference import load
from smpr.model import SMPR
from smpr.peers.keypoint_rcnn import TopDown, TopDownConfig
from smpr.training import averaged
from smpr.update import make_state, small_config

SMALL = small_config(steps=4, batch=2)
SMALL = replace(SMALL, model=replace(SMALL.model, width=16, norm_groups=4, heatmap_width=16, tower_depth=1))
KINDS = ("loaded", "learning", "averaged")


def network(kind: str) -> SMPR:
    "A network as the package hands it out."
    if kind == "loaded":
        return load("rendered", "cpu")
    state = make_state(SMALL)
    return state.net if kind == "learning" else averaged(state, SMALL)


def answer(net: nn.Module) -> torch.Tensor:
    "Poses for noise of fixed seed, without gradients."
    picture = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return net(picture).pose


def changed(net: SMPR) -> dict[str, torch.Tensor]:
    "Other weights for the same network: every norm of the backbone another one."
    state = {k: v.clone() for k, v in net.state_dict().items()}
    for name in state:
        if name.startswith("backbone.") and name.endswith("running_var"):
            state[name] *= 1.5
            state[name.replace("running_var", "bias")] += 0.1
    return state


def saved_whole(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "save": saved_whole,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_whole_and_a_network_of_its_own(kind, way):
    net = network(kind)
    other, before = COPIES[way](net), answer(net)
    assert torch.equal(answer(other), before)
    other.load_state_dict(changed(net))
    assert torch.equal(answer(net), before) and not torch.allclose(answer(other), before)


@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_its_weights(kind):
    "New weights count at once, as they do in a network without anything folded."
    net = network(kind)
    plain = SMPR(net.config, net.skeleton).train(net.training)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in plain.named_parameters()]
    for state in (net.state_dict(), changed(net)):
        net.load_state_dict(state)
        plain.load_state_dict(state)
        torch.testing.assert_close(answer(net), answer(plain), rtol=1e-3, atol=1e-3)
    net.load_state_dict(changed(plain), assign=True)
    plain.load_state_dict(changed(plain), assign=True)
    torch.testing.assert_close(answer(net), answer(plain), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_it_compiles():
    "The whole network in one graph; new weights count there, too."
    net = load("rendered", "cpu")
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(answer(compiled), answer(net), rtol=1e-4, atol=1e-4)
    net.load_state_dict(changed(net))
    torch.testing.assert_close(answer(compiled), answer(net), rtol=1e-4, atol=1e-4)


def test_a_copy_learns_on_its_own():
    "Under CPU autocast a copy's depthwise gradients arrive in the copy."
    net = make_state(SMALL).net
    assert any(isinstance(m, DepthwiseConv) for m in net.modules())
    other = copy.deepcopy(net)
    with torch.autocast("cpu", torch.bfloat16):
        other(torch.randn(1, 3, 64, 96)).pose.square().mean().backward()
    quick = [m for m in other.modules() if isinstance(m, DepthwiseConv)]
    assert all(m.weight.grad.abs().sum() > 0 for m in quick)
    assert all(p.grad is None for p in net.parameters())


def test_making_it_draws_no_random_numbers():
    "What is drawn after a network was made does not depend on how it computes."
    net = load("rendered", "cpu")
    torch.manual_seed(0)
    FoldedConv(nn.Conv2d(2, 2, 1, device="meta"), FoldedNorm(nn.BatchNorm2d(2, device="meta")))
    Deployed(net), averaged(make_state(SMALL), SMALL)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    SMPR(net.config, net.skeleton), SMPR(SMALL.model)
    assert torch.equal(drawn, torch.rand(3))


def test_nothing_is_patched():
    "No network that the package makes has a method of its own."
    made = [network(kind) for kind in KINDS] + [
        Deployed(load("rendered", "cpu")),
        TopDown(SMALL, TopDownConfig()),
    ]
    assert not [type(m) for net in made for m in net.modules() if {"forward", "__call__"} & set(vars(m))]
