"""What is counted (``python -m bench floor``) and timed (``python -m bench gpu``): each case once.

A case knows its inputs, one call, and the kernels it needs at the least; who computes it is up to
the caller: a backend by name, or anything that wraps the call (``torch.compile``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

import stmixer_ops as so
from stmixer_ops import functional as F

from . import networks, traffic
from .networks import Shape
from .traffic import Kernel

SURROGATE = so.surrogate.PiecewiseQuadratic(1.0)
MODEL = "stmixer_4_384_16"
Call = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One op or network on one input.

    Attributes:
        name: unique; ``group`` is the part before the first space.
        images: the batch, with which bytes and work grow.
        values: neuron-steps, what bytes are told per.
        floor: the kernels it needs at the least.
        inputs: makes them, the differentiable ones first, on a device.
        call: ``call(*inputs)``, or ``call(module, *inputs)`` with a ``module``.
        leaves: how many inputs want a gradient; 0: inference.
        steps: T.
        module: makes the module, if there is one.
        parts: ``call`` put together of separate ops, where one op does more.
    """

    name: str
    images: int
    values: float
    floor: Sequence[Kernel]
    inputs: Callable[[torch.device], list[Tensor]]
    call: Call
    leaves: int = 1
    steps: int = 4
    module: Callable[[], nn.Module] | None = None
    parts: Call | None = None

    @property
    def group(self) -> str:
        return self.name.split()[0]

    @property
    def key(self) -> str:
        """The name without the batch."""
        return self.name.split(" batch=")[0]

    def unfused(self) -> Case:
        """The same for the peers, as the official code writes it: one module after the other."""
        made = self.module
        module = None if made is None else lambda: call_every_module(made())
        return replace(self, call=self.parts or self.call, module=module)

    def program(
        self, device: torch.device, module: nn.Module | None = None, wrap: Any = None
    ) -> Callable[[], Tensor]:
        """One step on fixed inputs: forward, and backward where something wants a gradient.

        A network under training also takes a step of AdamW.
        """
        call: Any = self.call if wrap is None else wrap(self.call)
        inputs = self.inputs(device)
        if module is not None:
            inputs = [module, *inputs]
        if self.group == "train":
            assert module is not None
            return _training_step(call, inputs, device)
        if not self.leaves:
            return _inference(call, inputs, device)
        offset = 0 if module is None else 1
        leaves = [x.requires_grad_() for x in inputs[offset : offset + self.leaves]]
        leaves += [] if module is None else list(module.parameters())
        gradient: list[Tensor] = []

        def step() -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=module is not None):
                out = call(*inputs)
            if not gradient:
                gradient.append(torch.randn_like(out))
            torch.autograd.grad(out, leaves, gradient[0])
            return out

        return step


def call_every_module(module: nn.Module) -> nn.Module:
    """Keep the layers from being fused: only PyTorch's and this library's own types are."""
    for child in module.modules():
        if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, so.STM):
            child.__class__ = type(f"Called{type(child).__name__}", (type(child),), {})
    return module


def _inference(call: Call, inputs: list[Any], device: torch.device) -> Callable[[], Tensor]:
    def step() -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            return call(*inputs)

    return step


def _training_step(call: Call, inputs: list[Any], device: torch.device) -> Callable[[], Tensor]:
    module, images, target = inputs
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            logits = call(module, images)
        nnf.cross_entropy(logits.float(), target).backward()
        optimizer.step()
        return logits

    return step


def _currents(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(shape, device=device, dtype=torch.bfloat16)


def _spikes(shape: Sequence[int], device: torch.device, rate: float) -> Tensor:
    return (torch.rand(shape, device=device) < rate).to(torch.bfloat16)


def _weight(*shape: int, fan_in: int, device: torch.device) -> Tensor:
    return (torch.randn(shape, device=device) * 2 / fan_in**0.5).bfloat16()


def lif_case(steps: int, batch: int, neurons: int) -> Case:
    """The issue's 64 x 65536 neurons are 256 x 16384."""
    values = steps * batch * neurons
    return Case(
        f"lif T={steps}",
        batch,
        values,
        traffic.lif(values),
        lambda device: [_currents(steps, batch, neurons, device=device)],
        lambda x: F.lif(x, surrogate=SURROGATE),
        steps=steps,
    )


def bn_lif_case(net: Shape, channels: int) -> Case:
    """Channels innermost, as the models have it."""
    rows = net.batch * net.tokens
    values = net.steps * rows * channels

    def inputs(device: torch.device) -> list[Tensor]:
        x = _currents(net.steps, rows, channels, device=device)
        return [x, torch.rand(channels, device=device) + 0.5, torch.zeros(channels, device=device)]

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.bn_lif(
            x, weight, bias, None, None, training=True, channel_dim=-1, surrogate=SURROGATE
        )

    def parts(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = nnf.batch_norm(x.flatten(0, 1), None, None, weight, bias, training=True)
        return F.lif(y.view(x.shape), surrogate=SURROGATE)

    return Case(
        f"bn_lif C={channels}",
        net.batch,
        values,
        traffic.bn_lif(values),
        inputs,
        call,
        leaves=3,
        parts=parts,
    )


def pack_case(net: Shape, rate: float) -> Case:
    shape = (net.steps, net.batch, net.tokens, net.dim)
    return Case(
        "pack_spikes",
        net.batch,
        net.stream,
        traffic.pack(net.stream),
        lambda device: [_spikes(shape, device, rate)],
        F.pack_spikes,
        leaves=0,
    )


def token_mix_lif_case(net: Shape, rate: float) -> Case:
    shape = (net.steps, net.batch, net.tokens, net.dim)

    def inputs(device: torch.device) -> list[Tensor]:
        weight = _weight(net.heads, net.tokens, net.tokens, fan_in=net.tokens, device=device)
        return [_spikes(shape, device, rate).transpose(2, 3), weight]

    return Case(
        f"token_mix_lif N={net.tokens}",
        net.batch,
        net.stream,
        traffic.token_mix_lif(net.stream, net.tokens, net.heads),
        inputs,
        lambda s, weight: F.token_mix_lif(s, weight, surrogate=SURROGATE),
        leaves=2,
        parts=lambda s, weight: F.lif(F.token_mix(s, weight), surrogate=SURROGATE),
    )


def linear_case(net: Shape, inputs: int, outputs: int, rate: float) -> Case:
    rows = net.steps * net.batch * net.tokens
    return Case(
        f"spike_linear {inputs}->{outputs}",
        net.batch,
        rows * outputs,
        traffic.spike_product(
            rows * inputs, rows * outputs, inputs * outputs, rows * inputs * outputs
        ),
        lambda device: [
            _spikes((rows, inputs), device, rate),
            _weight(outputs, inputs, fan_in=inputs, device=device),
        ],
        F.spike_linear,
        leaves=2,
    )


def _images(net: Shape, channels: int, size: int, device: torch.device, rate: float) -> Tensor:
    """``[T, B, C, H, W]`` with the channels innermost."""
    shape = (net.steps, net.batch, size, size, channels)
    return _spikes(shape, device, rate).permute(0, 1, 4, 2, 3)


def _convolved(
    net: Shape, inputs: int, outputs: int, size: int, rate: float, device: torch.device
) -> list[Tensor]:
    """Spikes and the weight of a 3x3 convolution."""
    return [
        _images(net, inputs, size, device, rate),
        _weight(outputs, inputs, 3, 3, fan_in=9 * inputs, device=device),
    ]


def conv_case(net: Shape, inputs: int, outputs: int, size: int, rate: float) -> Case:
    pixels = net.steps * net.batch * size**2
    macs = pixels * outputs * inputs * 9
    return Case(
        f"spike_conv2d {inputs}->{outputs}",
        net.batch,
        pixels * outputs,
        traffic.spike_product(pixels * inputs, pixels * outputs, 9 * inputs * outputs, macs),
        lambda device: _convolved(net, inputs, outputs, size, rate, device),
        lambda s, weight: F.spike_conv2d(s, weight, 1, 1),
        leaves=2,
    )


def conv_lif_case(net: Shape, inputs: int, outputs: int, size: int, rate: float) -> Case:
    pixels = net.steps * net.batch * size**2
    macs = pixels * outputs * inputs * 9
    return Case(
        f"conv_lif {inputs}->{outputs}",
        net.batch,
        pixels * outputs,
        traffic.conv_lif(pixels * inputs, pixels * outputs, 9 * inputs * outputs, macs),
        lambda device: [
            *_convolved(net, inputs, outputs, size, rate, device),
            torch.zeros(outputs, device=device, dtype=torch.bfloat16),
        ],
        lambda s, weight, bias: F.conv_lif(s, weight, bias, 1, 1, surrogate=SURROGATE),
        leaves=0,
    )


def block_case(net: Shape) -> Case:
    shape = (net.steps, net.batch, net.tokens, net.dim)
    alone = [*traffic.lif(net.stream, bits=True), *networks.block_training(net, last=True)]
    return Case(
        "STMBlock",
        net.batch,
        net.stream,
        alone,
        lambda device: [_currents(*shape, device=device).transpose(2, 3)],
        lambda module, x: module(x),
        module=lambda: so.STMBlock(net.dim, net.tokens, net.heads, net.ratio).train(),
    )


def _model(net: Shape) -> so.STMixer:
    return so.STMixer(
        net.image, net.in_channels, net.classes, net.dim, net.depth, net.heads, net.ratio,
        net.downsample, net.steps,
    )  # fmt: skip


def training_case(net: Shape) -> Case:
    def inputs(device: torch.device) -> list[Tensor]:
        images = torch.randn(net.batch, net.in_channels, net.image, net.image, device=device)
        return [images, torch.randint(net.classes, (net.batch,), device=device)]

    return Case(
        f"train batch={net.batch}",
        net.batch,
        net.stream,
        networks.training_step(net),
        inputs,
        lambda module, x: module(x),
        module=lambda: _model(net).train(),
    )


def inference_case(net: Shape) -> Case:
    return Case(
        f"infer batch={net.batch}",
        net.batch,
        net.stream,
        networks.inference(net),
        lambda device: [
            torch.randn(net.batch, net.in_channels, net.image, net.image, device=device)
        ],
        lambda module, x: module(x),
        leaves=0,
        module=lambda: _model(net).eval(),
    )


def cases(batch: int = 256, rate: float = 0.17, tiny: bool = False) -> list[Case]:
    """All of them, the longest last.

    Args:
        batch: images; everything but the inference of a single image grows with it.
        rate: of the spikes that are input.
        tiny: sizes that an interpreter can take, to rehearse.
    """
    if tiny:
        net = Shape(2, steps=2, image=8, dim=32, depth=1, heads=4, downsample=1)
        size, widths, lif_steps, lif_neurons = 6, (32, 64), (2,), 64
    else:
        net = Shape(batch)
        size, widths, lif_steps, lif_neurons = 32, (96, 192), (1, 2, 4, 8, 16, 32), 16384
    return [
        *(lif_case(steps, net.batch, lif_neurons) for steps in lif_steps),
        bn_lif_case(net, net.dim),
        bn_lif_case(net, net.ratio * net.dim),
        pack_case(net, rate),
        token_mix_lif_case(net, rate),
        linear_case(net, net.dim, net.ratio * net.dim, rate),
        linear_case(net, net.ratio * net.dim, net.dim, rate),
        conv_case(net, *widths, size, rate),
        conv_lif_case(net, *widths, size, rate),
        block_case(net),
        inference_case(replace(net, batch=1)),
        inference_case(net),
        training_case(net),
    ]
