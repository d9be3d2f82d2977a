#!/usr/bin/env bash
# Installs what the full test run needs on a new Debian machine, then checks and tests with every part required.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v chromium >/dev/null 2>&1; then
  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null) || { echo "could not install chromium: apt-get install chromium" >&2; exit 1; }
fi
make setup
make check
TRIMTAB_REQUIRE=${TRIMTAB_REQUIRE:-browser} make test
TRIMTAB_REQUIRE=${TRIMTAB_REQUIRE:-browser} .venv/bin/python -m pytest -n 2 -m slow tests
make planted
make demo EXIT=1
