"""STMBlock: against the published definition, dropped into other people's training set-ups."""

import copy

import pytest
import torch
import torch.distributed
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import stmixer_ops as so
from stmixer_ops.nn.layers import SpikeConv2d

DIM, TOKENS, HEADS = 16, 9, 4


def block(**options) -> so.STMBlock:
    torch.manual_seed(0)
    made = so.STMBlock(DIM, TOKENS, HEADS, **options)
    for module in made.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made


def stream(T=3, B=2, dtype=torch.float64) -> torch.Tensor:
    torch.manual_seed(1)
    return (torch.randn(T, B, DIM, TOKENS) * 2).to(dtype)


def plain(m: so.STMBlock, x: torch.Tensor) -> torch.Tensor:
    """The block as published, in plain PyTorch on ``[T, B, C, N]``."""

    def linear_bn(fc, bn, s):
        y = torch.einsum("oc,tbcn->tbon", fc.weight, s)
        return bn(y.flatten(0, 1)).unflatten(0, s.shape[:2])

    tm, mlp = m.token_mixer, m.channel_mlp
    s = tm.lif2(linear_bn(tm.fc1, tm.bn1, tm.lif1(x)))
    heads = s.unflatten(2, (HEADS, -1))
    mixed = torch.einsum("hmn,tbhcn->tbhcm", tm.stm.weight, heads).flatten(2, 3)
    x = x + linear_bn(tm.fc2, tm.bn2, tm.lif3(mixed))
    s = mlp.lif2(linear_bn(mlp.fc1, mlp.bn1, mlp.lif1(x)))
    return x + linear_bn(mlp.fc2, mlp.bn2, s)


def stepped(m: nn.Module, run, x: torch.Tensor):
    """Output and all gradients of one backward pass."""
    x = x.clone().requires_grad_()
    y = run(m, x)
    torch.manual_seed(2)
    (y * torch.randn(y.shape).to(y.dtype)).sum().backward()
    return y, {"x": x.grad} | {k: p.grad for k, p in m.named_parameters() if p.requires_grad}


def assert_same(a: nn.Module, run_a, b: nn.Module, run_b, x: torch.Tensor) -> None:
    (y, grads), (y2, grads2) = stepped(a, run_a, x), stepped(b, run_b, x)
    torch.testing.assert_close(y, y2, rtol=1e-10, atol=1e-10)
    assert grads.keys() == grads2.keys()
    for key in grads:
        torch.testing.assert_close(grads[key], grads2[key], rtol=1e-9, atol=1e-11, msg=key)
    for (key, value), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-12, msg=key)


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("training", [True, False])
def test_matches_the_published_definition(T, reset, training):
    m = block(reset=reset).double().train(training)
    assert_same(m, lambda m, x: m(x), copy.deepcopy(m), plain, stream(T))


def cumulative(m):
    for bn in (c for c in m.modules() if isinstance(c, _BatchNorm)):
        bn.momentum = None


def frozen(m):
    for bn in (c for c in m.modules() if isinstance(c, _BatchNorm)):
        bn.eval()


def untracked(m):
    for parent in (m.token_mixer, m.channel_mlp):
        for name in ("bn1", "bn2"):
            width = getattr(parent, name).num_features
            setattr(parent, name, nn.BatchNorm1d(width, track_running_stats=False).double())


def hooked(m):
    for child in m.modules():
        if isinstance(child, (_BatchNorm, so.LIF, so.STM)):
            child.register_forward_hook(lambda module, args, output: None)


@pytest.mark.parametrize("change", [cumulative, frozen, untracked, hooked])
def test_children_keep_their_own_behaviour(change):
    """momentum=None, frozen BN, batch statistics only, hooks: as if each child were called."""
    m = block().double().train()
    change(m)
    other = copy.deepcopy(m)
    for _ in range(2):
        m.zero_grad()
        other.zero_grad()
        assert_same(m, lambda m, x: m(x), other, plain, stream())


def test_replaced_children_are_called():
    """SyncBatchNorm, subclasses and foreign neurons take the unfused path."""

    class Doubled(nn.BatchNorm1d):
        def forward(self, y):
            return 2 * super().forward(y)

    class Relu(nn.Module):
        def forward(self, x):
            return x.relu()

    m = nn.SyncBatchNorm.convert_sync_batchnorm(block().double().train())
    assert isinstance(m.channel_mlp.bn1, nn.SyncBatchNorm)
    m.token_mixer.bn1 = Doubled(DIM).double()
    m.channel_mlp.lif2 = Relu()
    # The linear layer after a foreign neuron no longer sees spikes, and is no SpikeLinear.
    m.channel_mlp.fc2 = nn.Linear(4 * DIM, DIM, bias=False).double()
    m.channel_mlp.fc2.forward = lambda s, bits=None: nn.functional.linear(
        s, m.channel_mlp.fc2.weight
    )
    assert_same(m, lambda m, x: m(x), copy.deepcopy(m), plain, stream())


def test_hooks_see_what_they_would_without_fusion():
    m = block().eval()
    shapes = {}
    for path, child in m.named_modules():
        if isinstance(child, (_BatchNorm, so.LIF, so.STM)):
            child.register_forward_hook(
                lambda _, args, output, path=path: shapes.update({path: output.shape})
            )
    m(stream(dtype=torch.float32))
    assert shapes["token_mixer.lif1"] == (3, 2, DIM, TOKENS)
    assert shapes["token_mixer.bn1"] == (6, DIM, TOKENS)
    assert shapes["channel_mlp.lif2"] == (3, 2, 4 * DIM, TOKENS)
    assert len(shapes) == 5 + 4 + 1


def test_branches_compose_to_the_block():
    m = block().double().eval()
    x = stream()
    y = x + m.token_mixer(x)
    torch.testing.assert_close(m(x), y + m.channel_mlp(y), rtol=1e-12, atol=1e-12)
    image = x.unflatten(3, (3, 3))
    assert torch.equal(m.token_mixer(image), m.token_mixer(x).unflatten(3, (3, 3)))
    assert torch.equal(m.channel_mlp(image), m.channel_mlp(x).unflatten(3, (3, 3)))


def test_hooked_and_replaced_branches_are_called():
    m, x = block().double().train(), stream()
    hooked, seen = copy.deepcopy(m), []
    for branch in (hooked.token_mixer, hooked.channel_mlp):
        branch.register_forward_hook(lambda m, args, out: seen.append(out.shape))
    assert_same(m, lambda m, x: m(x), hooked, lambda m, x: m(x), x)
    assert seen == [x.shape, x.shape]
    m.eval()
    m.token_mixer = nn.Identity()
    torch.testing.assert_close(m(x), 2 * x + m.channel_mlp(2 * x), rtol=1e-12, atol=1e-12)


def test_images_any_layout_and_no_state():
    m = block().double().eval()
    x = stream()
    y = m(x)
    assert torch.equal(m(x.unflatten(3, (3, 3))), y.unflatten(3, (3, 3)))
    innermost = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(m(innermost), y)
    assert torch.equal(m(x[:1].expand(4, *x.shape[1:])), m(x[:1].repeat(4, 1, 1, 1)))
    assert torch.equal(m(x), y)


def test_kernels_of_every_dtype_run_in_training():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        m = block().to(dtype).train()
        y, grads = stepped(m, lambda m, x: m(x), stream(dtype=dtype))
        assert y.dtype == dtype and y.isfinite().all()
        assert all(g.isfinite().all() and g.dtype == dtype for g in grads.values())


def test_autocast_runs_and_trains_float32_weights():
    m = block().train()
    with torch.autocast("cpu", torch.bfloat16):
        y, grads = stepped(m, lambda m, x: m(x), stream(dtype=torch.float32))
    assert y.dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads.values())
    # Spikes are where float32 puts them, but for values near the threshold.
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), so.record(m) as narrow:
        m(stream(dtype=torch.float32))
    with torch.no_grad(), so.record(m) as wide:
        m(stream(dtype=torch.float32))
    for path, spikes in narrow.spikes.items():
        assert (spikes != wide.spikes[path]).float().mean() < 0.05, path


def test_mixed_dtypes_without_autocast_are_refused():
    with pytest.raises((TypeError, RuntimeError)):
        block().train()(stream(dtype=torch.bfloat16))


@pytest.mark.compiles
def test_compiles_without_a_graph_break():
    m = block().train()
    compiled = torch.compile(copy.deepcopy(m), fullgraph=True, backend="aot_eager")
    assert_same(
        m, lambda m, x: m(x), compiled._orig_mod, lambda _, x: compiled(x),
        stream(dtype=torch.float32),
    )  # fmt: skip


def test_deepcopy_and_state_dict():
    m = block().eval()
    other = so.STMBlock(DIM, TOKENS, HEADS).eval()
    other.load_state_dict(m.state_dict())
    x = stream(dtype=torch.float32)
    assert torch.equal(other(x), m(x))
    assert torch.equal(copy.deepcopy(m)(x), m(x))


def test_reset_helpers_find_a_harmless_reset():
    """SpikingJelly's functional.reset_net calls m.reset() on whatever has it."""
    m = block().eval()
    x = stream(dtype=torch.float32)
    y = m(x)
    called = [child.reset() for child in m.modules() if hasattr(child, "reset")]
    assert len(called) == 5
    assert torch.equal(m(x), y)


def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        m = block().double().train()
        parallel = nn.parallel.DistributedDataParallel(copy.deepcopy(m))
        assert_same(m, lambda m, x: m(x), parallel.module, lambda _, x: parallel(x), stream())
        parallel(stream()).sum().backward()  # the second step needs every gradient of the first
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("autocast", [False, True])
def test_training_holds_at_most_20_bytes_per_value(autocast):
    """Unique storages held by one block in bfloat16 at ratio 4, parameters left out."""
    shape = (4, 8, 64, 64)
    m = so.STMBlock(64, 64, 4).train()
    x = torch.randn(shape).transpose(2, 3)
    if not autocast:
        m, x = m.bfloat16(), x.bfloat16()
    x.requires_grad_()
    held = {}

    def pack(t):
        held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        y = m(x)
    own = {t.untyped_storage().data_ptr() for t in [*m.parameters(), *m.buffers()]}
    total = sum(size for address, size in held.items() if address not in own)
    y.float().sum().backward()
    values = torch.Size(shape).numel()
    assert 18 < total / values <= 20 + (weight_copies(m) if autocast else 0) / values


def weight_copies(m: nn.Module) -> int:
    # Autocast keeps a narrow copy of each weight, whatever the number of tokens.
    return sum(2 * p.numel() for p in m.parameters() if p.dim() > 1)


def test_initialisation_is_kaiming_normal_fan_out():
    torch.manual_seed(0)
    stm = so.STM(num_tokens=64, num_heads=8)
    assert stm.weight.shape == (8, 64, 64)
    for head in stm.weight:
        assert head.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    conv = SpikeConv2d(32, 64, 3, 2, 1)
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    made = so.STMBlock(64, 16, 4)
    assert made.channel_mlp.fc1.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 2, DIM + 1, TOKENS), f"{DIM}, N"),
        ((2, 2, DIM, TOKENS + 1), f"{TOKENS} tokens"),
        ((2, DIM, TOKENS), "x must be"),
        ((0, 2, DIM, TOKENS), "x must be"),
        ((2, 2, DIM, 2, 3), f"{TOKENS} tokens"),
    ],
)
def test_wrong_shapes_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        block()(torch.zeros(shape))


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="floating-point"):
        block()(torch.zeros(2, 2, DIM, TOKENS, dtype=torch.uint8))
    with pytest.raises(ValueError, match="num_heads must divide the 16 channels, got 5"):
        so.STMBlock(16, 9, 5)
    with pytest.raises(ValueError, match="num_tokens"):
        so.STMBlock(16, 0, 4)
    with pytest.raises(ValueError, match="mlp_ratio"):
        so.STMBlock(16, 9, 4, mlp_ratio=0)
    with pytest.raises(ValueError, match="mixer"):
        so.STMBlock(16, 9, 4, mixer="conv")
    with pytest.raises(ValueError, match="reset"):
        so.STMBlock(16, 9, 4, reset="zero")
    with pytest.raises(TypeError, match="decay_from_tau"):
        so.STMBlock(16, 9, 4, tau=2.0)
