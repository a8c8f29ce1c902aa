#!/usr/bin/env bash
# What the comparison with pycocoevalcap needs beyond Python: a Java runtime, for its tokenizer and
# METEOR. Run it as often as you like; where it cannot be installed, those tests skip with a reason.
set -uo pipefail

command -v java >/dev/null && exit 0
export DEBIAN_FRONTEND=noninteractive
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends default-jre-headless; } \
  >/dev/null || echo "tests/metrics: no Java, which takes apt-get and root: its tests will skip" >&2
