"""Surrogate module learning: GELU side networks that give early layers a cleaner gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import STM, channels_last, kaiming_fan_out_, make_head

SMLOutput = tuple[Tensor, Sequence[Tensor]]


def _linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features, bias=False)
    kaiming_fan_out_(linear.weight, out_features)
    return linear


def _norm(bn: nn.Module, y: Tensor) -> Tensor:
    """``bn`` over the channels of ``y [B, N, C]``."""
    return bn(y.flatten(0, 1)).view(y.shape)


class GELUBlock(nn.Module):
    """The encoder block of STMixer with GELU for LIF: ``[B, N, C]`` to the same."""

    def __init__(self, dim: int, num_tokens: int, num_heads: int, expansion: float = 4.0) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        self.fc1 = _linear(dim, dim)
        self.bn1 = nn.BatchNorm1d(dim)
        self.stm = STM(num_tokens, num_heads)
        self.fc2 = _linear(dim, dim)
        self.bn2 = nn.BatchNorm1d(dim)
        self.fc3 = _linear(dim, hidden)
        self.bn3 = nn.BatchNorm1d(hidden)
        self.fc4 = _linear(hidden, dim)
        self.bn4 = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(_norm(self.bn1, self.fc1(F.gelu(x))))
        y = self._mix(y)
        x = x + _norm(self.bn2, self.fc2(F.gelu(y)))
        y = F.gelu(_norm(self.bn3, self.fc3(F.gelu(x))))
        return x + _norm(self.bn4, self.fc4(y))

    def _mix(self, y: Tensor) -> Tensor:
        # Real values, not spikes: the plain product, one matrix per head.
        heads = y.unflatten(-1, (self.stm.num_heads, -1))
        return torch.einsum("hmn,bnhc->bmhc", self.stm.weight, heads).flatten(2)


class SurrogateModule(nn.Module):
    """One side network: mean over T, 1x1 + BN + GELU, GELU blocks, token mean, linear.

    Args:
        dim, num_tokens, num_heads: of the stream it reads.
        depth: number of :class:`GELUBlock`.
        num_classes: width of its ``head``.
    Shape: the stream ``[T, B, C, N]`` to logits ``[B, num_classes]``.
    """

    def __init__(
        self, dim: int, num_tokens: int, num_heads: int, depth: int, num_classes: int
    ) -> None:
        super().__init__()
        self.proj = _linear(dim, dim)
        self.bn = nn.BatchNorm1d(dim)
        self.blocks = nn.ModuleList(GELUBlock(dim, num_tokens, num_heads) for _ in range(depth))
        self.head = make_head(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(_norm(self.bn, self.proj(channels_last(x).mean(0))))
        for block in self.blocks:
            y = block(y)
        return self.head(y.mean(1))


def surrogate_depths(depth: int) -> list[int]:
    """Blocks in each side network of a STMixer of ``depth`` blocks, first to last.

    The first reads the output of the patch embedding, the next that of block 2, 4, 6, 8.
    Published for depths 2 to 10: [1], [2,1], [3,2,1], [3,2,1,1], [3,2,1,1,1].
    """
    count = depth // 2
    return [max(1, min(3, count) - i) for i in range(count)]


class SMLLoss(nn.Module):
    """Loss of surrogate module learning.

    ``(1 - lam) (L0 + alpha sum Li) / (1 + N alpha) +
    lam / (2 N) sum [KL(sg(y0) || yi) + KL(sg(yi) || y0)]`` with L the ``criterion``, sg a
    stop-gradient, and KL the batch mean between softmaxes at ``temperature`` (no T^2 factor).

    Args:
        temperature: softens the logits in the KL terms.
        alpha: weight of each side network's own loss.
        lam: share of the mutual distillation.
        criterion: ``(logits, target) -> scalar``; by default cross-entropy, which takes class
            indices or probabilities (mixup).
    Call: ``loss((logits, [aux, ...]), target)``; for plain logits, or no aux, the criterion alone.
    """

    def __init__(
        self,
        temperature: float = 3.0,
        alpha: float = 0.5,
        lam: float = 0.9,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature!r}")
        if not alpha >= 0:
            raise ValueError(f"alpha must not be negative, got {alpha!r}")
        if not 0 <= lam <= 1:
            raise ValueError(f"lam must lie in [0, 1], got {lam!r}")
        self.temperature = temperature
        self.alpha = alpha
        self.lam = lam
        self.criterion = F.cross_entropy if criterion is None else criterion

    def forward(self, output: Tensor | SMLOutput, target: Tensor) -> Tensor:
        logits, aux = (output, ()) if isinstance(output, Tensor) else output
        if len(aux) == 0:
            return self.criterion(logits, target)
        count = len(aux)
        losses = [self.criterion(y, target) for y in aux]
        supervised = self.criterion(logits, target) + self.alpha * sum(losses)
        soft = self._soften(logits)
        mutual = sum(_kl(soft, y) + _kl(y, soft) for y in map(self._soften, aux))
        # The official code guards the second division with 1e-8: no matter, but for exactness.
        return (1 - self.lam) / (1 + count * self.alpha) * supervised + (
            self.lam / (2 * count + 1e-8) * mutual
        )

    def _soften(self, logits: Tensor) -> Tensor:
        # Narrow logits are softened in float32.
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        return F.log_softmax(logits.to(dtype) / self.temperature, dim=-1)


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(sg(teacher) || student) of log-probabilities, mean over the batch."""
    return F.kl_div(student, teacher.detach(), reduction="batchmean", log_target=True)
