#!/usr/bin/env bash
# The native tests under the address and undefined-behaviour sanitizers (GCC or Clang on Linux).
#
#   tests/native/sanitize.sh [pytest arguments]
#
# It builds a copy of HEAD in a cache of its own, so that no other build waits or is evicted. Its end
# is `clean`, or the reports that were found and status 1. The first run compiles all of ggml and
# llama.cpp (10 CPU-minutes); the tests take several times as long as without.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
git archive HEAD | tar -x -C "$work"
cd "$work"
export PYTREELLAMA_CACHE="${PYTREELLAMA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pytreellama}/sanitize"

# -O1 and line numbers alone: with more, GCC takes a quarter of an hour for the products' tiles, most of
# it to track variables; checks of large functions are calls for the same reason
calls="--param asan-instrumentation-with-call-threshold=500"
if "${CXX:-c++}" --version | grep -q clang; then
    calls="-mllvm -asan-instrumentation-with-call-threshold=500"
fi
flags="-fno-omit-frame-pointer -fno-sanitize-recover=address $calls"
export CMAKE_ARGS="-DGGML_SANITIZE_ADDRESS=ON -DGGML_SANITIZE_UNDEFINED=ON \
-DLLAMA_SANITIZE_ADDRESS=ON -DLLAMA_SANITIZE_UNDEFINED=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo \
-DCMAKE_C_FLAGS='$flags' -DCMAKE_CXX_FLAGS='$flags' \
-DCMAKE_C_FLAGS_RELWITHDEBINFO='-O1 -g1 -DNDEBUG' -DCMAKE_CXX_FLAGS_RELWITHDEBINFO='-O1 -g1 -DNDEBUG'"

# Python is not instrumented: its own leaks are not ours, and the runtime must come first
export ASAN_OPTIONS="detect_leaks=0:verify_asan_link_order=0:log_path=$work/report"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$work/report"
python3 build.py build --extra test

runtime="$(${CC:-cc} -print-file-name=libasan.so)"
standard="$(${CXX:-c++} -print-file-name=libstdc++.so)"
paths=("$@")
[ ${#paths[@]} -gt 0 ] || paths=(tests/native tests/properties)
status=0
LD_PRELOAD="$runtime $standard" .venv/bin/python -m pytest -q -p no:cacheprovider "${paths[@]}" || status=1

# what stock llama.cpp does is told apart from what our patches and the bridge do
reports="$(cat "$work"/report* 2>/dev/null | grep -E 'runtime error|ERROR: AddressSanitizer' | sort | uniq -c || true)"
if [ -n "$reports" ]; then
    echo "$reports"
    status=1
fi
[ "$status" = 0 ] && echo clean
exit "$status"
