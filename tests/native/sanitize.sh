#!/usr/bin/env bash
# The native tests under the address and undefined-behaviour sanitizers (GCC or Clang on Linux).
#
#   tests/native/sanitize.sh [pytest arguments]
#
# It builds a copy of HEAD, so that the build in the checkout stays as it is. Takes some minutes;
# its end is `clean`, or the reports that were found and status 1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
git archive HEAD | tar -x -C "$work"
cd "$work"

flags="-fno-omit-frame-pointer -fno-sanitize-recover=address -g1"
export CMAKE_ARGS="-DGGML_SANITIZE_ADDRESS=ON -DGGML_SANITIZE_UNDEFINED=ON \
-DLLAMA_SANITIZE_ADDRESS=ON -DLLAMA_SANITIZE_UNDEFINED=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo \
-DCMAKE_C_FLAGS='$flags' -DCMAKE_CXX_FLAGS='$flags'"

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
