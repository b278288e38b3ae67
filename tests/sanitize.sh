#!/usr/bin/env bash
# Builds the C++ with the address and undefined-behaviour sanitizers into a folder of its own and
# runs the tests that reach it. Needs g++ and an environment with the test requirements (PYTHON).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
target=$PWD/build/sanitize
rm -rf "$target"
"$python" -m pip install --quiet --no-deps --target "$target" . \
  --config-settings=cmake.define.STMIXER_SANITIZE=ON \
  --config-settings=cmake.define.STMIXER_CUDA=OFF \
  --config-settings=build-dir="$PWD/build/sanitize-objects"
cd tests
# Leaks are not looked for: the interpreter itself holds memory to the end. Left out are what counts
# or weighs memory, which the sanitizer holds in its own way, and the example, another build.
export STMIXER_FUZZ_CASES=${STMIXER_FUZZ_CASES:-20000}
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
export PYTHONPATH=$target LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
exec "$python" -m pytest -q ops/test_lif.py ops/test_bn_lif.py ops/test_token_mix.py \
  ops/test_linear_pack.py engine graph --ignore engine/test_example.py -k "not allocates_nothing and not ten_thousand_calls" "$@"
