"""What the chart is tested with: helm, kubeconform with the schemas of Kubernetes, kube-apiserver with etcd, all of versions that tools/go.mod locks.

Go builds them once, into $TRIMTAB_CACHE (or var/kafka): `make kubernetes`. Nothing of it is shipped.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.kafka.broker import Missing, cache, last_lines  # noqa: E402

MODULE = Path(__file__).resolve().parent / "tools"
PACKAGES = {
    "helm": "helm.sh/helm/v3/cmd/helm",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform",
    "kube-apiserver": "./kube-apiserver",
    "etcd": "./etcd",
}
QUICKLY = ["-gcflags=all=-N -l -dwarf=0"]  # built once and run for seconds: half the time to build matters, the speed of what is built does not


def version(module: str) -> str:
    found = re.search(rf"^\s*{re.escape(module)} v(\S+)", (MODULE / "go.mod").read_text(), re.M)
    assert found is not None, module
    return found[1]


def folder() -> Path:
    """Another for other versions, or ways to build."""
    said = b"".join(path.read_bytes() for path in (Path(__file__), *sorted(MODULE.rglob("*"))) if path.is_file())
    return cache() / f"kubernetes-{version('k8s.io/kubernetes')}-{hashlib.sha256(said).hexdigest()[:12]}"


def tool(name: str) -> Path:
    """Where a program, or `schemas`, is. Raises Missing where it was not built yet: that takes minutes, which no test should take by surprise."""
    path = folder() / name
    if not path.exists():
        raise Missing(f"{name} is not built: `make kubernetes` (needs Go, takes some minutes, once)")
    return path


def fetch() -> Path:
    """All of them are there. Raises Missing."""
    there = folder()
    if there.is_dir():
        return there
    go = shutil.which("go")
    if go is None:
        raise Missing("there is no Go, which builds what the chart is tested with: install Go 1.26 or newer")
    there.parent.mkdir(parents=True, exist_ok=True)
    with (there.parent / "building").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if there.is_dir():
            return there
        print(f"building helm, kubeconform, kube-apiserver and etcd (once, into {there}) ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=there.parent) as made:
            run(go, "build", "-mod=readonly", *QUICKLY, f"-ldflags=-s -w {told()}", "-o", f"{made}/all/", *PACKAGES.values())
            swagger = Path(run(go, "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").strip()) / "api" / "openapi-spec" / "swagger.json"
            write_schemas(json.loads(swagger.read_text()), Path(made) / "all" / "schemas")
            (Path(made) / "all").rename(there)
    return there


def told() -> str:
    """What the programs say that they are; helm believes charts to be for such a Kubernetes."""
    kubernetes = version("k8s.io/kubernetes")
    major, minor, _ = kubernetes.split(".")
    words = {
        "k8s.io/component-base/version.gitVersion": f"v{kubernetes}",
        "k8s.io/component-base/version.gitMajor": major,
        "k8s.io/component-base/version.gitMinor": minor,
        "helm.sh/helm/v3/internal/version.version": f"v{version('helm.sh/helm/v3')}",
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor": major,
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor": minor,
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor": major,
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": minor,
    }
    return " ".join(f"-X {name}={word}" for name, word in words.items())


def run(*words: str) -> str:
    environment = os.environ | {"CGO_ENABLED": "0", "GOGC": "off", "GOFLAGS": ""}  # the compiler's processes are short: collecting their garbage is waste
    done = subprocess.run(words, cwd=MODULE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"Go could not build what the chart is tested with: {last_lines(done.stderr)}")
    return done.stdout


def write_schemas(swagger: dict[str, Any], there: Path) -> None:
    """A schema for each kind, with what it is made of, as kubeconform looks for them; a field that no kind has is refused."""
    there.mkdir()
    definitions = swagger["definitions"]
    for name, definition in definitions.items():
        if "properties" in definition:
            definition.setdefault("additionalProperties", False)
        if name.endswith((".IntOrString", ".Quantity")):
            definition["type"] = ["string", "integer"] if name.endswith("IntOrString") else ["string", "number"]
            definition.pop("format", None)
    parts = {name: set(re.findall(r'"#/definitions/([^"]+)"', json.dumps(definition))) for name, definition in definitions.items()}
    for name, definition in definitions.items():
        needed, more = set(), {name}
        while more:
            needed |= more
            more = {part for one in more for part in parts[one]} - needed
        schema = {"$ref": f"#/definitions/{name}", "definitions": {part: definitions[part] for part in sorted(needed)}}
        for kind in definition.get("x-kubernetes-group-version-kind", ()):
            words = [kind["kind"].lower(), *([kind["group"].split(".")[0]] if kind["group"] else []), kind["version"]]
            (there / f"{'-'.join(words)}.json").write_text(json.dumps(schema))


def main() -> int:
    parser = argparse.ArgumentParser(description="What the chart is tested with.")
    parser.add_argument("--fetch", action="store_true", required=True, help="build it, where it is not there yet")
    parser.parse_args()
    try:
        print(fetch())
    except Missing as error:
        print(str(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
