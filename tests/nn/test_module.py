"""Module: attributes, state dicts, hooks, modes and conversions."""

from __future__ import annotations

import numpy as np
import pytest

import tinygen as tg
from tinygen import nn


class Block(nn.Module):
    """A parameter, a buffer, modules shared and nested, and one that is absent."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(np.ones(2, np.float32))
        self.first = nn.Linear(2, 2)
        self.again = self.first
        self.norms = nn.Sequential(nn.BatchNorm1d(2), nn.ReLU())
        self.absent = None
        self.register_parameter("bias", None)
        self.register_buffer("count", tg.Tensor(np.array(3)))
        self.size = 2

    def forward(self, x):
        return self.norms(self.again(self.first(x * self.scale)))


NAMES = [
    "scale", "count", "first.weight", "first.bias", "again.weight", "again.bias",
    "norms.0.weight", "norms.0.bias", "norms.0.running_mean", "norms.0.running_var",
    "norms.0.num_batches_tracked",
]  # fmt: skip


# ----------------------------------------------------------------------------------- attributes


def test_names_and_order():
    block = Block()
    assert list(block.state_dict()) == NAMES
    parameters = [name for name in NAMES if name.split(".")[-1] in ("scale", "weight", "bias")]
    assert [n for n, _ in block.named_parameters()] == [
        name for name in parameters if not name.startswith("again")
    ]
    assert [n for n, _ in block.named_buffers()] == [n for n in NAMES if n not in parameters]
    assert [n for n, _ in block.named_modules()] == ["", "first", "norms", "norms.0", "norms.1"]
    assert [n for n, _ in block.named_modules("net")][:2] == ["net", "net.first"]
    assert list(block.children()) == [block.first, block.norms]


def test_the_same_in_pytorch():
    torch = pytest.importorskip("torch")

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(2))
            self.first = torch.nn.Linear(2, 2)
            self.again = self.first
            self.norms = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.ReLU())
            self.register_parameter("bias", None)
            self.register_buffer("count", torch.tensor(3))

    ours, theirs = Block(), Torch()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for walk in ("named_parameters", "named_buffers", "named_modules"):
        mine, other = ([name for name, _ in getattr(m, walk)()] for m in (ours, theirs))
        assert mine == other, walk
    assert len(list(ours.children())) == len(list(theirs.children()))


def test_attributes_find_their_table():
    block = Block()
    assert block.absent is None
    assert block.bias is None
    assert block.size == 2
    assert isinstance(block.count, tg.Tensor)
    block.absent = nn.Linear(2, 1)  # was a plain attribute
    assert "absent.weight" in block.state_dict()
    assert block.absent.weight.shape == (1, 2)
    block.bias = nn.Parameter(np.zeros(2))
    assert "bias" in block.state_dict()
    block.bias = None
    assert "bias" not in block.state_dict()
    block.count = tg.Tensor(np.array(5))
    assert block.state_dict()["count"].item() == 5
    del block.absent
    with pytest.raises(AttributeError, match="Block has no attribute 'absent'"):
        block.absent  # noqa: B018
    block.scale = nn.Linear(2, 2)  # a module takes a parameter's place
    assert "scale" not in dict(block.named_parameters())
    assert "scale.weight" in dict(block.named_parameters())


def test_a_registered_name_takes_only_what_it_is_for():
    block = Block()
    for name, value, kind in [
        ("scale", np.ones(2), "Parameter"),
        ("scale", tg.ones(2), "Parameter"),
        ("first", lambda x: x, "Module"),
        ("count", 4, "Tensor"),
    ]:
        with pytest.raises(TypeError, match=rf"Block\.{name} must be a {kind} or None, got"):
            setattr(block, name, value)
    with pytest.raises(TypeError, match=r"Block\.w must be a Parameter or None, got Tensor"):
        block.register_parameter("w", tg.ones(2))
    assert list(block.state_dict()) == NAMES


def test_super_init_must_come_first():
    class Hasty(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match=r"Hasty: call super\(\).__init__\(\) first"):
        Hasty()


def test_no_forward():
    with pytest.raises(NotImplementedError, match="Module has no forward method"):
        nn.Module()(1)


def test_a_parameter_is_a_leaf():
    p = nn.Parameter(tg.ones(2))
    assert p.requires_grad
    assert p.is_leaf
    assert not nn.Parameter(np.ones(2), requires_grad=False).requires_grad
    assert isinstance(p * 1, tg.Tensor)
    assert not isinstance(p * 1, nn.Parameter)


# ---------------------------------------------------------------------------------- state dicts


def test_loading_copies():
    source, target = Block(), Block()
    for value in source.state_dict().values():
        value.data[...] = 7
    parameter = target.scale
    target.load_state_dict(source.state_dict())
    assert target.scale is parameter
    for value in target.state_dict().values():
        assert (value.data == 7).all()
    source.scale.data[...] = 1
    assert target.scale.tolist() == [7, 7]


def test_a_state_dict_is_a_view():
    block = Block()
    state = block.state_dict()
    assert not state["scale"].requires_grad
    block.scale.data[...] = 5
    assert state["scale"].tolist() == [5, 5]


def test_loading_takes_arrays_of_any_dtype_and_layout():
    net = nn.Conv2d(3, 2, 2)
    state = {k: v.data.astype(np.float64) for k, v in net.state_dict().items()}
    other = nn.Conv2d(3, 2, 2)
    other.load_state_dict({k: np.asfortranarray(v) for k, v in state.items()})
    assert other.weight.dtype == np.float32
    np.testing.assert_array_equal(other.weight.data, net.weight.data)
    assert other.weight.data.transpose(0, 2, 3, 1).flags.c_contiguous


def test_everything_that_does_not_fit_is_listed_and_nothing_written():
    block = Block()
    before = {k: v.data.copy() for k, v in block.state_dict().items()}
    state = {k: np.full(v.shape, 9.0) for k, v in block.state_dict().items()}
    del state["first.bias"], state["norms.0.running_var"]
    state |= {"scale": np.ones(3), "first.weight": np.ones((2, 2, 1)), "extra": np.ones(1)}
    with pytest.raises(ValueError) as caught:
        block.load_state_dict(state)
    text = str(caught.value)
    for part in (
        "Block.load_state_dict: ",
        "missing first.bias",
        "missing norms.0.running_var",
        "unexpected extra",
        "scale has shape (3,), not (2,)",
        "first.weight has shape (2, 2, 1), not (2, 2)",
    ):
        assert part in text
    assert "\n" not in text
    with pytest.raises(ValueError, match="scale has shape"):  # shapes must fit all the same
        block.load_state_dict(state, strict=False)
    for name, value in block.state_dict().items():
        np.testing.assert_array_equal(value.data, before[name])


def test_a_part_of_a_state_dict():
    block = Block()
    before = block.first.weight.data.copy()
    block.load_state_dict({"scale": np.full(2, 4.0), "other": np.ones(1)}, strict=False)
    assert block.scale.tolist() == [4, 4]
    np.testing.assert_array_equal(block.first.weight.data, before)


def test_loading_is_a_write_that_the_tape_sees():
    net = nn.Linear(2, 1)
    x = tg.ones(1, 2, requires_grad=True)
    y = net(x)
    net.load_state_dict(net.state_dict())
    with pytest.raises(RuntimeError, match="overwritten in place"):
        y.sum().backward()


# -------------------------------------------------------------------------------- modes and hooks


def test_train_and_eval_reach_all_modules():
    block = Block()
    assert all(module.training for module in block.modules())
    assert block.eval() is block
    assert not any(module.training for module in block.modules())
    block.train()
    assert all(module.training for module in block.modules())


def test_hooks_run_in_order_and_are_removed():
    net, calls = nn.Linear(1, 1), []
    net.weight.data[...], net.bias.data[...] = 2, 0
    handles = [
        net.register_forward_pre_hook(
            lambda module, args: calls.append(("before", args[0].item()))
        ),
        net.register_forward_pre_hook(lambda module, args: args[0] + 1),
        net.register_forward_hook(lambda module, args, out: calls.append(("after", out.item()))),
        net.register_forward_hook(lambda module, args, out: out * 10),
    ]
    x = tg.tensor([[3.0]])
    assert net.has_hooks
    assert net(x).item() == 80
    assert calls == [("before", 3), ("after", 8)]
    handles[1].remove()
    handles[1].remove()
    assert net(x).item() == 60
    for handle in handles:
        handle.remove()
    assert not net.has_hooks
    assert net(x).item() == 6
    assert len(calls) == 4


def test_load_hooks_hear_what_was_written():
    block, heard = Block(), []
    block.norms[0].register_load_hook(lambda module, names: heard.append((module, names)))
    handle = block.register_load_hook(lambda module, names: heard.append((module, names)))
    block.load_state_dict({"scale": np.ones(2), "norms.0.bias": np.ones(2)}, strict=False)
    assert heard == [(block, {"scale"}), (block.norms[0], {"bias"})]
    handle.remove()
    with pytest.raises(ValueError):
        block.load_state_dict({})
    assert len(heard) == 2


def test_apply_goes_from_the_inside_out_and_once():
    block, seen = Block(), []
    assert block.apply(lambda module: seen.append(module)) is block
    assert seen == [block.first, *block.norms, block.norms, block]


def test_requires_grad_and_zero_grad():
    block = Block()
    x = tg.randn(4, 2, requires_grad=True)
    assert block.requires_grad_(False) is block
    block(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in block.parameters())
    block.requires_grad_()
    block(x).sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    block.zero_grad()
    assert all(p.grad is None for p in block.parameters())


def test_conversion():
    block = Block()
    parameter, weight = block.scale, block.first.weight.data.astype(np.float64)
    assert block.to(np.float64) is block
    assert block.scale is parameter
    assert all(p.dtype == np.float64 for p in block.parameters())
    np.testing.assert_array_equal(block.first.weight.data, weight)
    assert block.norms[0].running_mean.dtype == np.float64
    assert block.norms[0].num_batches_tracked.dtype == np.int64
    x = tg.ones(3, 2, dtype=np.float64)
    assert block(x).dtype == np.float64
    block(x).sum().backward()
    assert all(p.grad.dtype == np.float64 for p in block.parameters())
    assert block.float().scale.dtype == np.float32
    assert block.double().scale.dtype == np.float64
    block.scale.grad = tg.ones(2, dtype=np.float64)
    assert block.to(np.float64).to("cpu").scale.grad is not None  # nothing changed
    conv = nn.Conv2d(3, 2, 2).to(np.float64)
    assert conv.weight.data.transpose(0, 2, 3, 1).flags.c_contiguous
    with pytest.raises(TypeError, match="to: expected a device or a floating-point dtype, got"):
        block.to(np.int64)


def test_a_device_that_is_not_there():
    with pytest.raises(tg.DeviceError):
        Block().to("cuda:99")


def test_repr():
    text = repr(nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())))
    assert text == (
        "Sequential(\n"
        "  (0): Linear(2, 3, bias=True)\n"
        "  (1): Sequential(\n"
        "    (0): BatchNorm1d(3, eps=1e-05, momentum=0.1)\n"
        "    (1): ReLU()\n"
        "  )\n"
        ")"
    )
    assert repr(nn.Conv2d(1, 2, 3, bias=False)) == (
        "Conv2d(1, 2, kernel_size=(3, 3), stride=1, padding=0, dilation=1, groups=1, bias=False)"
    )
    assert repr(nn.Parameter(np.zeros(1, np.float32))).startswith("Parameter tensor(")
