#!/usr/bin/env bash
# onnxruntime-gpu, beside the tests and not in their environment, where it would lie over the build
# for processors. Without it, and where it has no wheel, the tests that run it skip with a reason.
set -uo pipefail
cd "$(dirname "$0")"

[ -d .onnxruntime-gpu/onnxruntime ] && exit 0
rm -rf .onnxruntime-gpu
python3 -m pip --disable-pip-version-check install -q --no-deps --target .onnxruntime-gpu \
  onnxruntime-gpu==1.31.1 2>/dev/null ||
  echo "tests/runtime/cuda: no wheel of onnxruntime-gpu: its tests will skip" >&2
