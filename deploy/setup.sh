#!/usr/bin/env bash
# Makes .venv from the locked, hashed requirements: with uv where it is present, else with venv and pip. `setup.sh .venv-bench bench` makes another.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv} list=${2:-dev}
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "trimtab needs Python 3.11 or newer; $python is $("$python" -V 2>&1)" >&2; exit 1; }
base='import sys; print(sys.base_prefix, *sys.version_info[:3])'
if [ -e "$folder/pyvenv.cfg" ] && [ "$("$folder/bin/python" -c "$base" 2>/dev/null)" != "$("$python" -c "$base")" ]; then
  rm -rf "$folder" # another Python's: what is in it would not go with this one
fi
echo "setting up $folder (once; locked versions, checked hashes) ..."
if command -v uv >/dev/null 2>&1; then
  uv venv --quiet --allow-existing --python "$python" "$folder"
  uv pip install --python "$folder" --compile-bytecode --require-hashes -r "requirements/$list.txt"
else
  "$python" -c 'import ensurepip, venv' 2>/dev/null || { echo "this Python has no venv: apt-get install python3-venv" >&2; exit 1; }
  "$python" -m venv "$folder"
  "$folder/bin/python" -m pip install --progress-bar on --disable-pip-version-check --require-hashes -r "requirements/$list.txt"
fi
[ "$list" != dev ] || install -m 755 deploy/trimtab "$folder/bin/trimtab"
touch "$folder/ready"
