#!/usr/bin/env bash
# What the comparison with ExifTool needs: Debian's libimage-exiftool-perl.
# Run it as often as you like. Where it cannot be installed, its tests skip, with a reason.
set -uo pipefail

skip() { echo "tests/data/xmp: $1: its tests will skip" >&2; }

if ! command -v exiftool >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends libimage-exiftool-perl
  } >/dev/null || skip "no exiftool, which takes apt-get and root"
fi
