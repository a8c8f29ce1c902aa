#!/usr/bin/env bash
# What the comparison with ImageMagick needs: Debian's imagemagick.
# Run it as often as you like. Where it cannot be installed, its tests skip, with a reason.
set -uo pipefail

skip() { echo "tests/data/images: $1: its tests will skip" >&2; }

if ! command -v convert-im6.q16 >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends imagemagick
  } >/dev/null || skip "no imagemagick, which takes apt-get and root"
fi
