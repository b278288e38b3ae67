"""Seeded faults: each is put into a copy of the project, where one of the tests named must fail.

    python tests/mutations.py [WORD ...]      # all, or those whose name holds one of the words

The tests that failed must pass once the faults are gone. The copy and its build lie under
``build/mutations``. A fault whose text is no longer there is an error, so that the list follows the
code. Needs cmake, a C++ compiler and pybind11.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TREE = ROOT / "build" / "mutations" / "tree"
BUILD = TREE / "build" / "extension"


@dataclass(frozen=True)
class Fault:
    """``old`` stands once in ``file`` and becomes ``new``; ``tests`` are arguments of pytest."""

    name: str
    file: str
    old: str
    new: str
    tests: str

    @property
    def compiled(self) -> bool:
        """Whether the extension has to be built again."""
        return self.file.startswith(("csrc/cpu", "csrc/engine", "csrc/graph", "csrc/common"))


FAULTS = [
    Fault(
        "lif C++: backward reads x with the step of another tensor",
        "csrc/cpu/lif_kernel.cpp",
        "read(p.x, p.x_step, 2)",
        "read(p.x, p.neurons, 2)",
        "ops/test_lif.py -k 'not triton'",
    ),
    Fault(
        "bn_lif C++: the gradient of the sum is left out",
        "csrc/cpu/bn_lif_kernel.cpp",
        "gradient_steps<hard, detach, true, true>",
        "gradient_steps<hard, detach, false, true>",
        "ops/test_bn_lif.py -k 'not triton'",
    ),
    Fault(
        "token_mix C++: strides of channels and tokens swapped in the input",
        "csrc/cpu/token_mix_kernel.cpp",
        "widen(s[c * p.s_strides[2] + n * p.s_strides[3]])",
        "widen(s[c * p.s_strides[3] + n * p.s_strides[2]])",
        "ops/test_token_mix.py -k 'not triton'",
    ),
    Fault(
        "engine project: the last tap of a row of the window is left out",
        "csrc/engine/project_kernel.cpp",
        "const int begin = max_int(x, 0), end = min_int(x + g.kernel_w, g.in_width);",
        "const int begin = max_int(x, 0), end = min_int(x + g.kernel_w - 1, g.in_width);",
        "engine/test_graph.py",
    ),
    Fault(
        "engine finish: a membrane at the threshold fires and is not reset",
        "csrc/engine/finish_kernel.cpp",
        "v.v[i] = h >= th ?",
        "v.v[i] = h > th ?",
        "engine/test_graph.py engine/test_model.py",
    ),
    Fault(
        "engine finish, int8: half is not added before the shift",
        "csrc/engine/finish_kernel.cpp",
        "const int64_t half = shift > 0 ? int64_t{1} << (shift - 1) : 0;",
        "const int64_t half = 0 * shift;",
        "engine/test_int8.py",
    ),
    Fault(
        "engine plan: the residual sum is left out of the bound of int8 currents",
        "csrc/engine/plan.cpp",
        "for (const std::string& name : c.currents) bound += bounds_[graph_.find(name).index];",
        "",
        "engine/test_int8.py",
    ),
    Fault(
        "Triton: a membrane at the threshold does not fire",
        "stmixer_ops/ops/_triton.py",
        "return h >= THRESHOLD",
        "return h > THRESHOLD",
        "ops/test_lif.py ops/test_token_mix.py -k triton",
    ),
    Fault(
        "Triton conv_lif: strides of time and image swapped",
        "stmixer_ops/ops/conv_lif/triton.py",
        "row = step * s_step + tl.cast(image, tl.int64) * s_image + row * s_row",
        "row = step * s_image + tl.cast(image, tl.int64) * s_step + row * s_row",
        "ops/test_conv_lif.py -k triton",
    ),
    Fault(
        "CUDA lif: the gradient of the spikes is that of the first step",
        "csrc/cuda/lif.cu",
        "static_cast<const T*>(p.gs) + t * p.neurons",
        "static_cast<const T*>(p.gs)",
        "cuda/test_ops.py -k lif",
    ),
    Fault(
        "data: every fourth image is held out instead of every fifth",
        "stmixer_ops/data/digits.py",
        "chosen[index] = seen[label] % TEST_EVERY == 0",
        "chosen[index] = seen[label] % (TEST_EVERY - 1) == 0",
        "data",
    ),
    Fault(
        "data: of several test folders the first by name is taken",
        "stmixer_ops/data/folder.py",
        "tests.sort(key=lambda f: (TEST_NAMES.index(f.name.lower()), f.name))",
        "tests.sort(key=lambda f: f.name)",
        "data",
    ),
    Fault(
        "data: height and width swapped in idx files",
        "stmixer_ops/data/idx.py",
        "torch.from_numpy(pixels[:, None].copy())",
        "torch.from_numpy(pixels[:, None].swapaxes(2, 3).copy())",
        "data",
    ),
    Fault(
        "events: an overflow mark of N-MNIST counts for one event only",
        "stmixer_ops/events/formats/nmnist.py",
        "_MARK_US * np.cumsum(marks)",
        "_MARK_US * np.roll(marks, 1)",
        "events/test_formats.py -k overflow_marks",
    ),
    Fault(
        "events: EVT 3 keeps the lower bits of the time when the upper ones change",
        "stmixer_ops/events/formats/prophesee.py",
        "np.where(low > _last(turns), payload[low], 0)",
        "np.where(low >= 0, payload[low], 0)",
        "events/test_formats.py -k evt3",
    ),
    Fault(
        "events: AEDAT 3 takes events that are marked as invalid",
        "stmixer_ops/events/formats/aedat.py",
        "np.flatnonzero(data[:, 0] & 1)",
        "np.flatnonzero(data[:, 0] | 1)",
        "events/test_formats.py -k aedat3",
    ),
    Fault(
        "events: what is wrong is looked for in the order of fields, not of events",
        "stmixer_ops/events/array.py",
        "return min(faults, default=None)",
        "return faults[0] if faults else None",
        "events/test_formats.py -k first_bad",
    ),
    Fault(
        "events: frames by time begin a microsecond early",
        "stmixer_ops/events/frames.py",
        "start - (-k * length // T)",
        "start + k * length // T",
        "events/test_frames.py -k by_time",
    ),
    Fault(
        "events: frames by number spread the rest",
        "stmixer_ops/events/frames.py",
        "np.arange(1, T) * (len(events) // T)",
        "np.arange(1, T) * len(events) // T",
        "events/test_frames.py -k by_number",
    ),
    Fault(
        "events: an odd crop lies half a pixel to the lower right",
        "stmixer_ops/events/frames.py",
        "(whole - part) // 2",
        "(whole - part + 1) // 2",
        "events/test_frames.py -k by_time",
    ),
    Fault(
        "data: polarities of CIFAR10-DVS are left as they are stored",
        "stmixer_ops/data/framing.py",
        '1 - events["p"]',
        'events["p"]',
        "data/test_event_sets.py -k upright",
    ),
    Fault(
        "data: the cache of frames does not ask how they are made",
        "stmixer_ops/data/recordings.py",
        "source.name, asdict(options), files",
        "source.name, files",
        "data/test_event_sets.py -k made_once",
    ),
    Fault(
        "trainer: cutmix of frames leaves the targets",
        "stmixer_ops/train/frames.py",
        "share * targets[order]",
        "share * targets",
        "train/test_frames.py -k cutmix",
    ),
    Fault(
        "trainer: NDA's shear leans the other way",
        "stmixer_ops/train/frames.py",
        "(slope - sin) * ratio",
        "(-slope - sin) * ratio",
        "train/test_frames.py -k shear",
    ),
    Fault(
        "trainer: the warm-up begins at 0",
        "stmixer_ops/train/recipe.py",
        "return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * epoch",
        "return (recipe.lr - recipe.warmup_lr) * epoch",
        "train",
    ),
    Fault(
        "trainer: a resumed run begins with a new optimiser",
        "stmixer_ops/train/loop.py",
        "saved.restore_optimizer(self.optimizer, self.model)",
        "pass",
        "train/test_loop.py",
    ),
]


def copy_project() -> None:
    """The tracked files and new ones, as they are in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, TREE / name
        if not source.is_file():
            continue
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def build() -> None:
    """The extension of the copy, into its package."""
    import pybind11

    options = [
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    configure = ["cmake", "-S", str(TREE), "-B", str(BUILD), "-DSTMIXER_CUDA=OFF", *options]
    for command in (configure, ["cmake", "--build", str(BUILD), "-j", "2"]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (extension,) = BUILD.glob("_C.*")
    shutil.copy(extension, TREE / "stmixer_ops")


def run_tests(*selection: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", *selection]
    environment = os.environ | {"PYTHONPATH": str(TREE), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=TREE / "tests", env=environment, capture_output=True, text=True, check=False
    )


def failing_tests(fault: Fault) -> list[str]:
    """The first test that fails with the fault in the copy, which is mended again; or none."""
    path = TREE / fault.file
    text = path.read_text()
    path.write_text(text.replace(fault.old, fault.new))
    try:
        if fault.compiled:
            build()
        done = run_tests(*shlex.split(fault.tests))
    finally:
        path.write_text(text)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{fault.name}: the tests did not run\n{done.stdout}{done.stderr}")
    return re.findall(r"^FAILED (\S+\.py::.*?)(?: - |$)", done.stdout, re.MULTILINE)


def main(words: list[str]) -> int:
    faults = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    for fault in faults:
        count = (ROOT / fault.file).read_text().count(fault.old)
        if count != 1:
            raise SystemExit(f"{fault.name}: {fault.file} has its text {count} times: {fault.old}")
    copy_project()
    build()
    failed: dict[str, list[str]] = {}
    for fault in faults:
        failed[fault.name] = tests = failing_tests(fault)
        print(f"{'noticed' if tests else 'SURVIVED':9} {fault.name}: {' '.join(tests)}", flush=True)
    build()
    noticed = dict.fromkeys(test for tests in failed.values() for test in tests)
    done = run_tests(*noticed)
    if noticed and done.returncode:
        raise SystemExit(f"these fail without a fault, too\n{done.stdout[-3000:]}")
    survived = [name for name, tests in failed.items() if not tests]
    print(f"{len(faults) - len(survived)} of {len(faults)} faults noticed")
    return len(survived)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
