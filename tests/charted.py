"""The chart, as helm makes objects of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deploy.kafka.broker import Missing
from deploy.kubernetes import programs
from tests.dockerfile import ROOT
from tests.parts import lacks

CHART = ROOT / "helm" / "trimtab"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
LEAST = CHART / "ci" / "least-values.yaml"
SERVICES = ("ingest", "rules", "actions", "console")
OTHERS = ("ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PrometheusRule")  # kinds that Kubernetes itself does not have
PART_OF = {"schemas": "kubeconform", "etcd": "kube-apiserver"}  # which is required where one of these is
Object = dict[str, Any]


def program(name: str) -> Path:
    """Ends the test where it was not built."""
    try:
        return programs.tool(name)
    except Missing as why:
        lacks(PART_OF.get(name, name), str(why))
        raise


def helm(*words: object, fails: bool = False, **environment: str) -> str:
    """What it says: on its way out, or, where it is to fail, as its error."""
    done = subprocess.run([program("helm"), *map(str, words)], env=environment, capture_output=True, text=True, timeout=100)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


@cache
def made(values: Path = LEAST, *words: str) -> str:
    return helm("template", "trimtab", CHART, "-f", values, *words)


def rendered(values: Path = LEAST, *words: str) -> list[Object]:
    return [o for o in yaml.load_all(made(values, *words), yaml.CSafeLoader) if o]


def named(objects: list[Object]) -> dict[str, Object]:
    """By kind and name, without the release's."""
    return {f"{o['kind']} {o['metadata']['name'].removeprefix('trimtab-')}": o for o in objects}


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """(name, pod's spec) of everything that runs."""
    for o in objects:
        if o["kind"] == "Pod":
            yield o["metadata"]["name"], o["spec"]
        elif "template" in o.get("spec", {}):
            yield o["metadata"]["name"], o["spec"]["template"]["spec"]


def running(objects: list[Object]) -> dict[str, Object]:
    """Service -> what keeps its pods running."""
    every = [o for o in objects if o["kind"] in ("Deployment", "StatefulSet")]
    return {o["spec"]["template"]["spec"]["containers"][0]["name"]: o for o in every}


def services(objects: list[Object]) -> dict[str, Object]:
    """Service -> its pod's spec."""
    found = running(objects)
    return {name: found[name]["spec"]["template"]["spec"] for name in SERVICES}


def mounted(spec: Object) -> set[str]:
    """The files of secrets that the pod's process finds."""
    there = {m["name"]: m["mountPath"] for m in spec["containers"][0]["volumeMounts"]}
    return {f"{there[v['name']]}/{i['path']}" for v in spec["volumes"] for i in v.get("secret", {}).get("items", ())}


def environment(spec: Object, objects: list[Object]) -> dict[str, str]:
    """What the pod's process is started with, without what is known only where it runs."""
    [container] = spec["containers"]
    maps = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"}
    told: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        told |= maps[source["configMapRef"]["name"]]
    return told | {e["name"]: e.get("value", "10.1.2.3") for e in container["env"]}
