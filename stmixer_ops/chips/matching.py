"""Which layer takes which core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def largest_matching(candidates: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """As many of the keys as can have a core each, no core twice: layer -> core.

    By augmenting paths: a layer takes a free core, or one whose layer can move to another.
    """
    layer_of: dict[int, str] = {}

    def place(layer: str, tried: set[int]) -> bool:
        for core in candidates[layer]:
            if core in tried:
                continue
            tried.add(core)
            if core not in layer_of or place(layer_of[core], tried):
                layer_of[core] = layer
                return True
        return False

    for layer in candidates:
        place(layer, set())
    places = {layer: core for core, layer in layer_of.items()}
    return {layer: places[layer] for layer in candidates if layer in places}
