"""The chart on a real API server: installed, upgraded, rolled back, and what is stored is what was meant. No pod runs: there is no kubelet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from deploy.kafka.broker import Failed
from deploy.kubernetes.server import ApiServer
from services.__main__ import app
from tests.charted import CHART, LEAST, OTHERS, SERVICES, VALUES, helm, pods, program, rendered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
KINDS = {"Deployment": "apis/apps/v1", "StatefulSet": "apis/apps/v1", "Job": "apis/batch/v1", "PodDisruptionBudget": "apis/policy/v1"}
AT = "2026-01-01T00:00:00Z"
ENDS = {"Complete": ("SuccessCriteriaMet", {"succeeded": 1, "completionTime": AT}), "Failed": ("FailureTarget", {"failed": 1})}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    program("kube-apiserver"), program("etcd")
    made = ApiServer(tmp_path_factory.mktemp("kubernetes"))
    made.start()
    yield made
    made.stop()


class Namespace:
    """One that admits nothing but restricted pods. Where a Job is to run, this test says how it ended, since nothing else does."""

    def __init__(self, server: ApiServer, name: str) -> None:
        self.server, self.name, self.end = server, name, "Complete"
        self.before: list[set[str]] = []  # what ran when each Job was there
        self.jobs: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})

    def __enter__(self) -> Namespace:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def path(self, kind: str, name: str = "") -> str:
        plural = "statefulsets" if kind == "StatefulSet" else f"{kind.lower()}s"
        return f"/{KINDS.get(kind, 'api/v1')}/namespaces/{self.name}/{plural}" + (f"/{name}" if name else "")

    def every(self, kind: str) -> dict[str, dict[str, Any]]:
        return {o["metadata"]["name"]: o for o in self.server.ask("GET", self.path(kind))["items"]}

    def helm(self, *words: object, fails: bool = False) -> str:
        return helm(*words, "--kubeconfig", self.server.kubeconfig, "--namespace", self.name, fails=fails, HOME=str(self.server.folder))

    def images(self) -> set[str]:
        """What runs, or would."""
        runs = [o for kind in ("Deployment", "StatefulSet") for o in self.every(kind).values()]
        return {c["image"] for o in runs for c in o["spec"]["template"]["spec"]["containers"]}

    def _watch(self) -> None:
        seen = set()
        while not self._stop.wait(0.05):
            for name, job in self.every("Job").items():
                if job["metadata"]["uid"] in seen:
                    continue
                seen.add(job["metadata"]["uid"])
                self.jobs.append(job)
                self.before.append(self.images())
                sooner, status = ENDS[self.end]
                conditions = [{"type": word, "status": "True", "lastTransitionTime": AT, "lastProbeTime": AT} for word in (sooner, self.end)]
                body = {"status": {"startTime": AT, "conditions": conditions, **status}}
                self.server.ask("PATCH", f"{self.path('Job', name)}/status", body, kind="application/merge-patch+json")


@pytest.fixture
def namespace(server: ApiServer, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    with Namespace(server, f"t{abs(hash(request.node.name)) % 10**9}") as made:
        yield made


def mode(namespace: Namespace) -> str:
    [container] = namespace.every("Deployment")["trimtab-actions"]["spec"]["template"]["spec"]["containers"]
    return str({e["name"]: e.get("value") for e in container["env"]}["TRIMTAB_ACTIONS"])


def test_installed_upgraded_and_rolled_back_what_is_stored_is_what_was_meant(namespace: Namespace) -> None:
    told = namespace.helm("install", "trimtab", CHART, "-f", LEAST)
    assert f"kubectl -n {namespace.name} exec deploy/trimtab-console -- trimtab key you --role admin --direct" in told
    assert {"--role", "--direct"} <= {o for p in typer.main.get_command(app).commands["key"].params for o in p.opts}  # type: ignore[attr-defined]
    assert namespace.before == [set()], "the schema is migrated before anything runs"
    assert namespace.jobs[0]["spec"]["template"]["spec"]["containers"][0]["args"] == ["migrate"]
    assert namespace.every("Job") == {}, "a Job that succeeded goes away"
    runs = namespace.every("Deployment") | namespace.every("StatefulSet")
    assert set(runs) == {f"trimtab-{name}" for name in SERVICES}
    for name, o in runs.items():
        spec = o["spec"]["template"]["spec"]
        [container] = spec["containers"]
        assert {p: container[p]["httpGet"]["path"] for p in ("startupProbe", "livenessProbe", "readinessProbe")} == {
            "startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz",
        }, name  # fmt: skip
        assert spec["terminationGracePeriodSeconds"] == 30 and container["lifecycle"]["preStop"] == {"sleep": {"seconds": 4}}
        assert container["securityContext"]["readOnlyRootFilesystem"] and spec["securityContext"]["runAsNonRoot"] and spec["enableServiceLinks"] is False
    assert set(namespace.every("PodDisruptionBudget")) == set(runs)
    first = namespace.images()

    namespace.helm("upgrade", "trimtab", CHART, "-f", LEAST, "--set", "image.tag=0.2.0,actions.mode=hold,rules.replicas=3")
    assert (namespace.images(), mode(namespace)) == ({"trimtab:0.2.0"}, "hold")
    assert namespace.before[1] == first, "the old build runs while the schema is migrated"
    assert namespace.jobs[1]["spec"]["template"]["spec"]["containers"][0]["image"] == "trimtab:0.2.0", "by the new build"
    assert namespace.every("StatefulSet")["trimtab-rules"]["spec"]["replicas"] == 3

    namespace.helm("rollback", "trimtab", "1")
    assert (namespace.images(), mode(namespace)) == (first, "execute")
    assert len(namespace.jobs) == 2, "a rollback migrates nothing"
    namespace.helm("uninstall", "trimtab")
    assert namespace.every("Deployment") == namespace.every("StatefulSet") == {}


def test_an_upgrade_whose_migration_fails_leaves_the_old_build_running(namespace: Namespace) -> None:
    namespace.helm("install", "trimtab", CHART, "-f", LEAST)
    first, namespace.end = namespace.images(), "Failed"
    told = namespace.helm("upgrade", "trimtab", CHART, "-f", LEAST, "--set", "image.tag=0.2.0", fails=True)
    assert "pre-upgrade hooks failed" in told
    assert namespace.images() == first
    assert set(namespace.every("Job")) == {"trimtab-migrate"}, "it stays, for its log to be read"
    namespace.end = "Complete"
    namespace.helm("upgrade", "trimtab", CHART, "-f", LEAST, "--set", "image.tag=0.2.0")
    assert namespace.images() == {"trimtab:0.2.0"}


@pytest.mark.parametrize("values", VALUES, ids=lambda v: v.stem)
def test_every_object_is_accepted_to_the_last_field_and_every_pod_admitted_as_restricted(values: Path, namespace: Namespace) -> None:
    objects = rendered(values)
    for o in (o for o in objects if o["kind"] not in OTHERS):
        group, _, version = o["apiVersion"].rpartition("/")
        plural = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}.get(o["kind"], f"{o['kind'].lower()}s")
        where = f"/apis/{group}/{version}" if group else "/api/v1"
        namespace.server.ask("POST", f"{where}/namespaces/{namespace.name}/{plural}", o, dryRun="All", fieldValidation="Strict")
    admitted = 0
    for name, spec in pods(objects):
        if "priorityClassName" in spec:
            spec = {k: v for k, v in spec.items() if k != "priorityClassName"}  # what a cluster has
        if name.endswith("-rules"):
            spec["volumes"] = [v for v in spec["volumes"] if v["name"] != "data"] + [{"name": "data", "emptyDir": {}}]  # its controller would add it
        pod = {"metadata": {"name": name}, "spec": {"restartPolicy": "Always"} | spec}
        namespace.server.ask("POST", namespace.path("Pod"), pod, dryRun="All", fieldValidation="Strict")
        admitted += 1
    assert admitted >= len(SERVICES)


def test_a_pod_of_root_would_not_be_admitted(namespace: Namespace) -> None:
    [spec] = [spec for name, spec in pods(rendered()) if name == "trimtab-console"]
    spec["securityContext"]["runAsUser"] = 0
    spec["securityContext"]["runAsNonRoot"] = spec["containers"][0]["securityContext"]["runAsNonRoot"] = False
    with pytest.raises(Failed, match='violates PodSecurity "restricted'):
        namespace.server.ask("POST", namespace.path("Pod"), {"metadata": {"name": "console"}, "spec": spec}, dryRun="All")


def test_a_field_that_no_kind_has_is_refused(namespace: Namespace) -> None:
    [job] = [o for o in rendered() if o["kind"] == "Job"]
    job["spec"]["backofLimit"] = job["spec"].pop("backoffLimit")
    with pytest.raises(Failed, match='unknown field "spec.backofLimit"'):
        namespace.server.ask("POST", namespace.path("Job"), job, dryRun="All", fieldValidation="Strict")
