"""One case, in a process of its own: build, check, time, look closer."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._extension import extension
from ..engine import Engine
from ..measure.timing import Pace, Timing, busy_neighbour, race
from . import resources
from .cases import Case
from .ceiling import profile
from .check import Mismatch, Reference, check_engine, check_peer, reference
from .network import Network, batches, build
from .peers import CONTESTANTS, Session

Row = dict[str, Any]


def run_case(case: Case, threads: int, pace: Pace) -> dict[str, Any]:
    """All figures of ``case``: what was run, and a row per contestant.

    A row's ``status`` is ``"measured"``, ``"unavailable"``, ``"failed"`` or ``"disagrees"``, with
    the ``reason``. If the engine itself disagrees, nobody is timed.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="stmixer-bench-") as folder:
        return _Measurement(case, build(case, Path(folder)), threads, pace).run()


class _Measurement:
    def __init__(self, case: Case, network: Network, threads: int, pace: Pace) -> None:
        self.case, self.network, self.threads, self.pace = case, network, threads, pace
        self.expected: Reference = reference(network)
        self.rows: dict[str, Row] = {}
        self.sessions: dict[str, Session] = {}

    def run(self) -> dict[str, Any]:
        for key in self.case.contestants:
            self.rows[key] = self._prepare(key)
        ours = self.rows.get("engine", {})
        if ours.get("status") != "disagrees":
            self._time()
            self._look_closer()
        return {
            "case": self.case.name,
            **self._about(),
            "rows": list(self.rows.values()),
        }

    def _about(self) -> dict[str, Any]:
        model: Any = self.network.model
        _, channels, height, width = self.network.images.shape
        return {
            "network": _file(self.case.checkpoint) or self.case.model,
            "input": f"{channels}x{height}x{width}",
            "inputs": self.network.inputs,
            "steps": model.T,
            "batch": self.case.batch,
            "threads": self.threads,
            "isa": extension().cpu_isa(),
            "isa_limit": self.case.isa,
            "rate": self.expected.rate,
            "rates": self.expected.rates,
        }

    def _prepare(self, key: str) -> Row:
        """Build, open and check one contestant; failures of a peer are its row."""
        contestant = CONTESTANTS[key]
        row: Row = {
            "contestant": contestant.label, "key": key, "precision": contestant.precision,
            "status": "measured", "reason": None,
        }  # fmt: skip
        reason = contestant.missing()
        if reason is not None:
            return row | {"status": "unavailable", "reason": reason}
        try:
            path = contestant.prepare(self.network, False)
            session = contestant.open(path, self.threads)
            row["note"] = session.note
            row["agreement"] = self._check(key, path, session)
        except Mismatch as error:
            return row | {"status": "disagrees", "reason": str(error)}
        except NotImplementedError as error:
            return row | {"status": "unavailable", "reason": str(error)}
        except Exception as error:  # whatever a foreign library throws: the others still run
            if key == "engine":
                raise
            text = " ".join(f"{type(error).__name__}: {error}".split())
            return row | {"status": "failed", "reason": text[:300]}
        self.sessions[key] = session
        return row

    def _check(self, key: str, path: Path, session: Session) -> dict[str, Any]:
        contestant = CONTESTANTS[key]
        if key.startswith("engine"):
            engine = Engine.load(path, num_threads=self.threads)
            return check_engine(engine, contestant.precision, self.network, self.expected)
        rates = None
        if contestant.has_rates:
            rates = contestant.open(contestant.prepare(self.network, True), self.threads)
        return check_peer(contestant, session, rates, self.network, self.expected)

    def _time(self) -> None:
        (x,) = batches(self.network.images, self.case.batch)
        calls = {key: partial(session.call, x) for key, session in self.sessions.items()}
        for key, timing in race(calls, self.pace).items():
            self.rows[key] |= _as_fields(timing)
        if self.case.resources:
            with busy_neighbour():
                for key, timing in race(calls, self.pace).items():
                    self.rows[key]["busy_ms"] = timing.median

    def _look_closer(self) -> None:
        """The engine's steps against the ceiling; memory and first answers."""
        (x,) = batches(self.network.images, self.case.batch)
        image = self.network.folder / "image.npy"
        np.save(image, x)
        for key in self.sessions:
            contestant = CONTESTANTS[key]
            path = contestant.prepare(self.network, False)
            if key.startswith("engine"):
                engine = Engine.load(path, num_threads=self.threads)
                repeat = self.pace.turns * self.pace.calls[0]
                self.rows[key] |= asdict(profile(engine, x, repeat))
            if self.case.resources and key != "ops":
                self.rows[key] |= resources.measure(
                    key, path, image, self.threads, repeats=1 if key == "compile" else 3
                )


def _file(checkpoint: str | None) -> str | None:
    """A file's name with its folder's: results are read on other machines."""
    return checkpoint and "/".join(Path(checkpoint).resolve().parts[-2:])


def _as_fields(timing: Timing) -> Row:
    return {
        "ms": timing.median, "iqr_ms": timing.iqr, "calls": timing.calls, "turns_ms": timing.turns,
    }  # fmt: skip


def main(specification: Path, result: Path) -> None:
    """Entry of the process: what to do is in one file, what came of it in the other."""
    told = json.loads(specification.read_text())
    case = Case(**told["case"] | {"contestants": tuple(told["case"]["contestants"])})
    pace = Pace(**told["pace"] | {"calls": tuple(told["pace"]["calls"])})
    result.write_text(json.dumps(run_case(case, told["threads"], pace)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
