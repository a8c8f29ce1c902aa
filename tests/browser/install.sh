#!/usr/bin/env bash
# What the browser tests need beyond Python: Debian's Chromium with its driver, and axe-core.
# Run it as often as you like. What cannot be installed is said; its tests skip, with a reason.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
axe_version=4.14.1

skip() { echo "tests/browser: $1: its tests will skip" >&2; }

if ! { command -v chromium && command -v chromedriver; } >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq &&
    apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core
  } >/dev/null || skip "no chromium, which takes apt-get and root"
fi

if ! grep -qs "\"version\": \"$axe_version\"" node_modules/axe-core/package.json; then
  npm install --silent --no-save --no-package-lock --no-audit --no-fund --prefix . \
    "axe-core@$axe_version" || skip "no axe-core, which takes npm"
fi
