"""``python -m bench floor``: how fast a GPU can be, and what that predicts against the peers.

For each case the least bytes and FLOPs of its kernels, the time they take at a given bandwidth and
rate, and the same for the peers' kernels: a prediction to hold the first measurement against. Not a
measurement.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from stmixer_ops.measure.table import format_table, quantity

from . import inductor, traffic
from .cases import Case, cases
from .tracing import trace_case
from .traffic import Kernel, Machine, total_bytes, total_flops

EAGER, COMPILE = "eager", "torch.compile"
SPIKINGJELLY, SPIKINGJELLY2 = "SpikingJelly", "SpikingJelly 2.0.0"
PEERS = (COMPILE, EAGER, SPIKINGJELLY, SPIKINGJELLY2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("floor", "the machine; by default an H200 and its bfloat16")
    group.add_argument("--bandwidth", type=float, default=4.8, metavar="TB/S")
    group.add_argument("--tflops", type=float, default=989, metavar="TFLOP/S")
    group.add_argument(
        "--launch", type=float, default=0, metavar="US", help="of each kernel, 0: none"
    )
    group.add_argument("--rate", type=float, default=0.17, help="spikes per neuron and step")
    group.add_argument("--composed", action="store_true", help="also what the ops move as composed")
    group.add_argument(
        "--recount", nargs="*", metavar="CASE", help="count torch.compile's bytes anew (minutes)"
    )


def machine_of(arguments: argparse.Namespace) -> Machine:
    return Machine(arguments.bandwidth * 1e12, arguments.tflops * 1e12, arguments.launch * 1e-6)


def peer_kernels(case: Case) -> dict[str, Sequence[Kernel]]:
    """The kernels of everybody who has been counted."""
    found: dict[str, Sequence[Kernel]] = {EAGER: trace_case(case, "reference")}
    compiled = inductor.kernels(case)
    if compiled is not None:
        found[COMPILE] = compiled
    if case.group in ("lif", "bn_lif"):
        # torch.compile of BN, then SpikingJelly's neurons.
        before = traffic.batch_norm(case.values) if case.group == "bn_lif" else []
        found[SPIKINGJELLY] = [*before, *traffic.spikingjelly_lif(case.values, case.steps)]
        found[SPIKINGJELLY2] = [*before, *traffic.spikingjelly2_lif(case.values, case.steps)]
    return found


def predict(case: Case, machine: Machine) -> dict[str, Any]:
    """The floor, and how much longer the peers take by their own bytes and FLOPs."""
    least = machine.seconds(case.floor)
    peers = {name: machine.seconds(k) / least for name, k in peer_kernels(case).items()}
    return {
        "bytes": total_bytes(case.floor),
        "bytes_per_value": total_bytes(case.floor) / case.values,
        "flops": total_flops(case.floor),
        "kernels": len(case.floor),
        "floor_ms": 1e3 * least,
        "predicted_ratio": peers,
    }


def synaptic_operations(case: Case, rate: float) -> float:
    """Additions that spikes cause in the forward product: rate times multiply-accumulates."""
    return rate * sum(k.flops for k in case.floor if "grad" not in k.name) / 2


def empty_words(rate: float) -> float:
    """Share of 32-bit words without a spike, if they fire independently: what could be skipped."""
    return (1 - rate) ** 32


def table(chosen: Sequence[Case], machine: Machine, rate: float) -> str:
    rows = []
    for case in chosen:
        found = predict(case, machine)
        ratios = [found["predicted_ratio"].get(peer) for peer in PEERS]
        rows.append(
            [
                case.name,
                f"{found['bytes_per_value']:.2f}",
                quantity(found["bytes"], "B"),
                f"{found['flops'] / 1e9:.0f}" if found["flops"] else "-",
                f"{synaptic_operations(case, rate) / 1e9:.1f}" if found["flops"] else "-",
                str(found["kernels"]),
                f"{1e3 * found['floor_ms']:.1f}",
                *("-" if ratio is None else f"{ratio:.2f}x" for ratio in ratios),
            ]
        )
    header = ["case", "B/value", "bytes", "GFLOP", "GSynOps", "kernels", "floor µs", *PEERS]
    return format_table(header, rows)


def composed(chosen: Sequence[Case], machine: Machine) -> str:
    """What the library's own composition of its ops moves beside the floor."""
    rows = []
    for case in chosen:
        kernels = trace_case(case, "cpu")
        least = machine.seconds(case.floor)
        rows.append(
            [
                case.name,
                f"{total_bytes(kernels) / case.values:.2f}",
                str(len(kernels)),
                f"{machine.seconds(kernels) / least:.2f}x",
            ]
        )
    return format_table(["as composed", "B/value", "kernels", "of the floor"], rows)


def run(arguments: argparse.Namespace) -> int:
    if arguments.recount is not None:
        inductor.record(arguments.recount or None)
    machine, chosen = machine_of(arguments), cases(rate=arguments.rate)
    print(
        f"Predicted from bytes and FLOPs, not measured: {arguments.bandwidth:g} TB/s, "
        f"{arguments.tflops:g} TFLOP/s, {arguments.launch:g} µs per kernel; bfloat16, "
        f"T=4 where not said, batch 256.\n"
    )
    print(table(chosen, machine, arguments.rate))
    print(
        f"\nAt a rate of {arguments.rate:g}, {empty_words(arguments.rate):.1%} of the words of 32 "
        "spikes are empty, which a sparse form could skip.\n"
        f"{EAGER}: counted from dispatched operations; {COMPILE}: by Inductor's scheduler on a CPU;"
        f"\n{SPIKINGJELLY}: 12 + 12/T bytes, and 16 + 24/T for the float32 membranes of 2.0.0 "
        "(with BN: compiled BN before it)."
    )
    if arguments.composed:
        print("\n" + composed(chosen, machine))
    return 0
