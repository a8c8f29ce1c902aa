#!/usr/bin/env bash
# Triton, beside the tests and not in their environment: PyTorch's build for processors comes without
# it. Its interpreter and its compiler need no GPU. Where it has no wheel, the tests that run it skip.
set -uo pipefail
cd "$(dirname "$0")"

[ -d .triton/triton ] && exit 0
rm -rf .triton
python3 -m pip --disable-pip-version-check install -q --no-deps --target .triton triton==3.9.0 \
  2>/dev/null ||
  echo "tests/runtime/torch/kernels: no wheel of Triton: its tests will skip" >&2
