"""Who is measured, and how each is built and called.

Every contestant writes the network to a file (``prepare``) and reads it again (``open``): a fresh
process that counts memory opens the same file. Nothing here is imported before it is used, so that
such a process holds its own library and no other.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .network import Network


@dataclass(frozen=True)
class Session:
    """A contestant that is ready: ``call`` gives all outputs, logits first."""

    call: Callable[[np.ndarray], list[np.ndarray]]
    note: str = ""


@dataclass(frozen=True)
class Contestant:
    """One row of every table.

    Attributes:
        precision: ``"fp32"``, ``"int8"``, or ``"default"``: what the library takes by itself.
        imports: modules that a fresh process loads before anything is counted.
        packages: what pip installs to have it, by name of the module.
        prepare: network -> file; with rates, outputs are the logits and the rates. None: a
            contestant without rates has no other file.
        open: file and threads -> session.
        compared: whether it stands for its precision when the fastest peer is named.
    """

    label: str
    precision: str
    imports: tuple[str, ...]
    packages: dict[str, str]
    prepare: Callable[[Network, bool], Path]
    open: Callable[[Path, int], Session]
    has_rates: bool = True
    compared: bool = True

    def missing(self) -> str | None:
        """What is not installed, and how to get it."""
        packages = [
            package
            for module, package in self.packages.items()
            if importlib.util.find_spec(module) is None
        ]
        return f"not installed: pip install {' '.join(packages)}" if packages else None


# -- the engine ------------------------------------------------------------------------------------


def _prepare_engine(precision: str) -> Callable[[Network, bool], Path]:
    def prepare(network: Network, rates: bool) -> Path:
        from ..engine import Engine

        path = network.folder / f"{precision}.stmx"
        if not path.exists():
            calibration = network.calibration if precision == "int8" else None
            Engine.compile(network.model, precision, calibration).save(path)
        return path

    return prepare


def _open_engine(path: Path, threads: int) -> Session:
    from ..engine import Engine

    engine = Engine.load(path, num_threads=threads)
    return Session(lambda x: [np.asarray(engine(x))], engine.isa)


# -- ONNX Runtime and OpenVINO ---------------------------------------------------------------------


def _open_onnxruntime(path: Path, threads: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return Session(lambda x: session.run(None, {name: x}))


def _open_openvino(hint: str | None) -> Callable[[Path, int], Session]:
    def open_(path: Path, threads: int) -> Session:
        import openvino

        options: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if hint is not None:
            options["INFERENCE_PRECISION_HINT"] = hint
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(str(path)), "CPU", options)
        request = compiled.create_infer_request()
        outputs = range(len(compiled.outputs))

        def call(x: np.ndarray) -> list[np.ndarray]:
            results = request.infer({0: x}, share_inputs=True, share_outputs=True)
            return [results[i] for i in outputs]

        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        return Session(call, f"{used}; {_kernels(compiled)}")

    return open_


def _kernels(compiled: Any) -> str:
    """What the layers with weights run on: the instruction set is part of the names."""
    names: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        kind, kernel = (info[k].astype(str) if k in info else "" for k in _RUNTIME_INFO)
        if kind in ("Convolution", "FullyConnected", "MatMul"):
            names[kernel] += 1
    return ", ".join(f"{count} {name}" for name, count in names.most_common())


_RUNTIME_INFO = ("layerType", "primitiveType")


def _prepare_onnx(network: Network, rates: bool) -> Path:
    return network.onnx(rates)


def quantized(onnx: Path, inputs: Sequence[np.ndarray]) -> Any:
    """OpenVINO's model of a file after NNCF's post-training quantisation, with its defaults."""
    import contextlib
    import io
    import logging

    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino.Core().read_model(str(onnx))
    with contextlib.redirect_stdout(io.StringIO()):  # it draws progress bars
        return nncf.quantize(model, nncf.Dataset(list(inputs)), subset_size=len(inputs))


def _prepare_nncf(network: Network, rates: bool) -> Path:
    paths = [network.folder / f"int8{suffix}.xml" for suffix in ("", "_rates")]
    if not paths[0].exists():
        import openvino

        from .network import batches

        items = batches(network.calibration, len(network.images))
        model = quantized(network.onnx(True), items)
        openvino.save_model(model, paths[1], compress_to_fp16=False)
        model.remove_result(model.get_results()[1])  # once quantised is enough
        openvino.save_model(model, paths[0], compress_to_fp16=False)
    return paths[rates]


# -- PyTorch ---------------------------------------------------------------------------------------


def _prepare_eager(network: Network, rates: bool) -> Path:
    from ..exchange.plain import Plain

    return _saved(Plain(network.model, rates), network.folder / f"plain{int(rates)}.pt")


def _prepare_model(network: Network, rates: bool) -> Path:
    return _saved(network.model, network.folder / "model.pt")


def _saved(model: Any, path: Path) -> Path:
    import torch

    if not path.exists():
        torch.save(model, path)
    return path


def _open_torch(backend: str | None, compiled: bool = False) -> Callable[[Path, int], Session]:
    def open_(path: Path, threads: int) -> Session:
        from contextlib import nullcontext

        import torch

        from .. import use_backend

        torch.set_num_threads(threads)
        # A file of our own, written a moment ago.
        model = torch.load(path, weights_only=False)
        if compiled:
            model = torch.compile(model)

        def call(x: np.ndarray) -> list[np.ndarray]:
            with use_backend(backend) if backend else nullcontext(), torch.no_grad():
                y = model(torch.from_numpy(x))
                return [part.numpy() for part in (y if isinstance(y, tuple) else (y,))]

        return Session(call, torch.backends.cpu.get_cpu_capability())

    return open_


_TORCH = ("torch", "stmixer_ops.models", "stmixer_ops.exchange.plain")
_ENGINE = ("stmixer_ops.engine", "stmixer_ops._C")
_OPENVINO = {"openvino": "openvino", "onnx": "onnx"}

CONTESTANTS = {
    "engine": Contestant(
        "engine fp32", "fp32", _ENGINE, {}, _prepare_engine("fp32"), _open_engine, has_rates=False
    ),
    "engine-int8": Contestant(
        "engine int8", "int8", _ENGINE, {}, _prepare_engine("int8"), _open_engine, has_rates=False
    ),
    "onnxruntime": Contestant(
        "ONNX Runtime fp32", "fp32", ("onnxruntime",),
        {"onnxruntime": "onnxruntime", "onnx": "onnx"}, _prepare_onnx, _open_onnxruntime,
    ),
    "openvino": Contestant(
        "OpenVINO fp32", "fp32", ("openvino",), _OPENVINO, _prepare_onnx, _open_openvino("f32")
    ),
    "openvino-default": Contestant(
        "OpenVINO default", "default", ("openvino",), _OPENVINO, _prepare_onnx, _open_openvino(None)
    ),
    "openvino-int8": Contestant(
        "OpenVINO int8 (NNCF)", "int8", ("openvino",), {**_OPENVINO, "nncf": "nncf"},
        _prepare_nncf, _open_openvino(None),
    ),
    "compile": Contestant(
        # Of the two ways to write the network, torch.compile is faster with the package's own.
        "torch.compile fp32", "fp32", _TORCH, {}, _prepare_model,
        _open_torch("reference", compiled=True), has_rates=False,
    ),
    "eager": Contestant(
        "PyTorch eager", "fp32", _TORCH, {}, _prepare_eager, _open_torch(None), compared=False,
    ),
    "ops": Contestant(
        "PyTorch, these ops", "fp32", _TORCH, {}, _prepare_model, _open_torch(None),
        has_rates=False, compared=False,
    ),
}  # fmt: skip
