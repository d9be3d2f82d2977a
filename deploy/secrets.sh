#!/usr/bin/env bash
# Makes the secrets of deploy/compose.yaml, each once, in a folder that nobody else may enter; the files are read by the containers' own user.
set -euo pipefail
folder=${1:-$(dirname "$0")/secrets}
umask 022
mkdir -p "$folder"
chmod 700 "$folder"
digits() { head -c "$1" /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
make() { [ -e "$folder/$1" ] || { echo "$2" >"$folder/$1.new" && mv "$folder/$1.new" "$folder/$1"; }; }
make database-password "$(digits 24)"
make secret "$(digits 32)"
make webhook-secrets.json "{\"sandbox\": [\"whsec_$(head -c 24 /dev/urandom | base64 -w0)\"]}"
echo "$folder holds the secrets; whoever reads them may sign in and sign events"
