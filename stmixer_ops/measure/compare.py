"""The engine beside PyTorch: spikes and answers for the same images."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..engine import Engine
from ..nn import record


@dataclass
class Comparison:
    """Engine against PyTorch, spike by spike.

    Attributes:
        images: how many were compared.
        compared: population -> values compared (neurons, steps and images).
        different: population -> values that differ.
        flips: image -> first population in which one of its spikes differs. Everything after a
            flip may differ too, so these images are listed instead of judged.
        answers: images whose largest logit is the same class.
        wrong: images without a flip whose largest logit is not: there should be none.
    """

    images: int = 0
    compared: dict[str, int] = field(default_factory=dict)
    different: dict[str, int] = field(default_factory=dict)
    flips: dict[int, str] = field(default_factory=dict)
    answers: int = 0
    wrong: list[int] = field(default_factory=list)
    engine_answers: list[int] = field(default_factory=list)


@torch.inference_mode()
def compare(model: nn.Module, engine: Engine, images: Tensor, batch_size: int = 64) -> Comparison:
    """Run both over normalised ``images [B, C, H, W]`` and compare every population."""
    result = Comparison()
    for batch in images.split(batch_size):
        with record(model) as reference:
            logits = model(batch)
        run = engine.run(batch, record=True)
        if list(run.spikes) != list(reference.spikes):
            raise RuntimeError(
                "engine and model have different populations: "
                f"{list(run.spikes)} and {list(reference.spikes)}"
            )
        for name, expected in reference.spikes.items():
            unequal = expected != torch.as_tensor(run.spikes[name])
            result.compared[name] = result.compared.get(name, 0) + unequal.numel()
            result.different[name] = result.different.get(name, 0) + int(unequal.sum())
            flipped = unequal.transpose(0, 1).flatten(1).any(1).nonzero().flatten()
            for index in flipped.tolist():
                result.flips.setdefault(result.images + index, name)
        answers = torch.as_tensor(run.logits).argmax(1)
        same = answers == logits.argmax(1)
        result.answers += int(same.sum())
        result.wrong += [
            index
            for index in (result.images + (~same).nonzero().flatten()).tolist()
            if index not in result.flips
        ]
        result.engine_answers += answers.tolist()
        result.images += len(batch)
    return result
