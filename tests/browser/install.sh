#!/usr/bin/env bash
# What the browser tests need beyond Python: Debian's Chromium with its driver, and axe-core.
# Run it as often as you like; tests skip, and say why, where these are absent.
set -euo pipefail
cd "$(dirname "$0")"
axe_version=4.14.1

if ! { command -v chromium && command -v chromedriver; } >/dev/null; then
  if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "tests/browser: needs apt-get as root for chromium and chromium-driver: skipped" >&2
  else
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core >/dev/null
  fi
fi

if ! grep -qs "\"version\": \"$axe_version\"" node_modules/axe-core/package.json; then
  if ! command -v npm >/dev/null; then
    echo "tests/browser: needs npm for axe-core: skipped" >&2
  else
    npm install --silent --no-save --no-package-lock --no-audit --no-fund --prefix . "axe-core@$axe_version"
  fi
fi
