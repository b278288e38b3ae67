"""What is measured: networks, batches, rates, instruction sets."""

from __future__ import annotations

from dataclasses import dataclass, replace

FP32 = ("engine", "onnxruntime", "openvino", "compile", "eager", "ops")
LOW = ("openvino-default", "engine-int8", "openvino-int8")
MODEL, LARGE = "stmixer_4_384_16", "stmixer_8_768_16"


@dataclass(frozen=True)
class Case:
    """One network on one input.

    Attributes:
        name: as ``--cases`` takes it.
        contestants: keys of ``peers.CONTESTANTS``.
        model: a name for ``create_model``; of no account with a checkpoint.
        img_size: by default that of the model.
        steps, batch: T and images per call; a checkpoint brings its own T.
        rate: move the thresholds until every population fires at this rate.
        isa: nobody may use more than this instruction set.
        checked: images that the contestants must agree on.
        resources: measure memory and the time to the first answer, too.
        checkpoint, data, root: a trained network instead of a random one.
    """

    name: str
    contestants: tuple[str, ...] = FP32 + LOW
    model: str = MODEL
    img_size: int | None = None
    steps: int = 1
    batch: int = 1
    rate: float | None = None
    isa: str | None = None
    checked: int = 16
    resources: bool = False
    checkpoint: str | None = None
    data: str | None = None
    root: str | None = None

    def describe(self) -> str:
        """What is measured, in a line."""
        if self.checkpoint is not None:
            return f"--checkpoint on its test images, batch {self.batch}"
        text = f"{self.model}, T={self.steps}, batch {self.batch}"
        if self.rate is not None:
            text += f", every rate moved to {self.rate:g}"
        if self.isa is not None:
            text += f", {self.isa} at most"
        if self.resources:
            text += ", with memory and first answers"
        return text

    @property
    def environment(self) -> dict[str, str]:
        """What keeps everybody to ``isa``; read when the libraries are loaded.

        ONNX Runtime has no such switch. Nor has the copy of its kernels inside OpenVINO, which
        reports where it used them.
        """
        if self.isa is None:
            return {}
        name = self.isa.upper()
        return {
            "STMIXER_CPU_ISA": self.isa,
            "ONEDNN_MAX_CPU_ISA": name,
            "DNNL_MAX_CPU_ISA": name,
            "ATEN_CPU_CAPABILITY": self.isa,
        }


CASES = (
    Case("t1-b1", resources=True),
    Case("t1-b16", batch=16),
    Case("t4-b1", steps=4),
    Case("t4-b16", steps=4, batch=16),
    Case("sparse", FP32, rate=0.05),
    Case("avx2", tuple(c for c in FP32 if c != "onnxruntime"), isa="avx2"),
    Case("large", (*FP32, *LOW), LARGE, checked=2),
)
QUICK = ("t1-b1", "t4-b1")
TRAINED = (
    Case("trained-b1", checkpoint=""),
    Case("trained-b16", checkpoint="", batch=16),
)


def choose(
    names: list[str] | None,
    *,
    quick: bool = False,
    model: str | None = None,
    img_size: int | None = None,
    checkpoint: str | None = None,
    data: str | None = None,
    root: str | None = None,
) -> list[Case]:
    """The cases of a run, in order.

    Args:
        names: a selection; by default all, or a few with ``quick``.
        model, img_size: another network in all cases but the large one.
        checkpoint, data, root: adds the cases of a trained network.
    Raises:
        ValueError: an unknown name, or a trained case without a checkpoint.
    """
    known = [*CASES, *TRAINED]
    if names is None:
        names = [c.name for c in CASES if not quick or c.name in QUICK]
        names += [c.name for c in TRAINED if checkpoint is not None]
    chosen = []
    for name in dict.fromkeys(names):
        case = next((c for c in known if c.name == name), None)
        if case is None:
            raise ValueError(f"unknown case {name!r}; there are {', '.join(c.name for c in known)}")
        if case.checkpoint is not None:
            if checkpoint is None:
                raise ValueError(f"case {name!r} needs --checkpoint")
            case = replace(case, checkpoint=checkpoint, data=data, root=root)
        elif case.model != LARGE:
            case = replace(case, model=model or MODEL, img_size=img_size)
        chosen.append(_hurry(case) if quick else case)
    return chosen


def _hurry(case: Case) -> Case:
    """Without what takes long to build."""
    contestants = tuple(c for c in case.contestants if c not in ("compile", "ops"))
    return replace(case, contestants=contestants, resources=False)
