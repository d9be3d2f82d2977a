"""The chart: what it makes is valid, starts with settings that there are, is asked where the services answer, and may do nothing that it need not."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from services import VERSION, production
from services.__main__ import app
from services.adapters.settings import PREFIX, Settings, from_environment
from tests.charted import CHART, LEAST, OTHERS, SERVICES, VALUES, environment, helm, made, mounted, named, pods, program, rendered, running, services
from tests.dockerfile import ROOT, stages

every_values = pytest.mark.parametrize("values", VALUES, ids=lambda v: v.stem)
IMAGE = stages((ROOT / "Dockerfile").read_text())[-1]
DRAIN = 25  # seconds that a process takes at most to end
SECRET = {PREFIX + name.upper() for name, field in Settings.model_fields.items() if not field.repr}


def kubeconform(objects: str, *words: str) -> subprocess.CompletedProcess[str]:
    where = f"{program('schemas')}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    command = [str(program("kubeconform")), "-strict", "-schema-location", where, *words]
    return subprocess.run(command, input=objects, capture_output=True, text=True, timeout=60)


@every_values
def test_helm_has_nothing_to_say_against_it(values: Path) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, "-f", values)


@every_values
def test_what_it_makes_is_valid_to_the_last_field(values: Path) -> None:
    done = kubeconform(made(values), "-output", "json", "-skip", ",".join(OTHERS))
    assert json.loads(done.stdout)["resources"] == [] and done.returncode == 0, done.stdout


def test_a_field_that_no_kind_has_is_seen() -> None:
    done = kubeconform(made().replace("failureThreshold", "failureTreshold"))
    assert done.returncode == 1 and "'failureTreshold' not allowed" in done.stdout


@every_values
def test_a_process_is_started_with_settings_that_there_are(values: Path, tmp_path: Path) -> None:
    objects = rendered(values)
    contents = {"secret": "ab" * 32, "webhook-secrets.json": '{"sandbox": ["whsec_a"]}', "executors.json": '{"house_ads": {"url": "https://ads.example.org"}}'}
    ran = [spec for _, spec in pods(objects) if spec["containers"][0].get("args", [""])[0] in ("serve", "migrate")]
    assert len(ran) >= len(SERVICES)
    for spec in ran:
        told = {k: v for k, v in (IMAGE.environment | environment(spec, objects)).items() if not k.startswith("TRIMTAB_KAFKA_C")}  # PEM files
        told["TRIMTAB_DATABASE"] = re.sub("&sslrootcert=[^&]*", "", told["TRIMTAB_DATABASE"])
        for variable, path in told.items():
            if variable.endswith("_FILE"):
                assert path in mounted(spec), f"{variable} is not mounted"
                told[variable] = str(tmp_path / Path(path).name)
                Path(told[variable]).write_text(contents.get(Path(path).name, "word"))
        settings = from_environment(told)
        assert settings.database.startswith("postgresql+asyncpg://") and settings.database_password == "word"


def test_every_secret_that_is_given_reaches_who_needs_it_and_nobody_else() -> None:
    objects = rendered(CHART / "ci" / "all-values.yaml")
    told = {name: sorted(environment(spec, objects)) for name, spec in services(objects).items()}
    files = {name: [v.removeprefix(PREFIX).removesuffix("_FILE").lower() for v in every if v.endswith("_FILE")] for name, every in told.items()}
    shared = ["database_password", "kafka_password", "secret"]
    assert files == {
        "ingest": [*shared, "webhook_secrets"], "rules": shared, "actions": sorted([*shared, "executors", "sandbox_token"]), "console": shared,
    }  # fmt: skip
    assert not SECRET & {variable for every in told.values() for variable in every}


def test_a_user_of_its_own_comes_with_its_own_password_and_with_no_other() -> None:
    objects = rendered(CHART / "ci" / "all-values.yaml")
    told = {name: environment(spec, objects) for name, spec in services(objects).items()}
    users = {name: (there["TRIMTAB_KAFKA_USER"], there["TRIMTAB_KAFKA_PASSWORD_FILE"].rpartition("/")[2]) for name, there in told.items()}
    own = {name: (f"trimtab-{name}", f"kafka-{name}") for name in ("ingest", "rules")}
    assert users == own | dict.fromkeys(("actions", "console"), ("trimtab", "kafka-password"))
    passwords = {name: {path for path in mounted(spec) if "kafka" in path} for name, spec in services(objects).items()}
    assert passwords == {name: {f"/etc/trimtab/secrets/{key}"} for name, (_, key) in users.items()}
    [scaling] = [o for o in objects if o["kind"] == "TriggerAuthentication"]
    assert [r["key"] for r in scaling["spec"]["secretTargetRef"] if r["parameter"] == "password"] == ["kafka-rules"]


@every_values
def test_every_service_of_production_is_started_by_its_command(values: Path) -> None:
    started = services(rendered(values))
    assert {name: spec["containers"][0]["args"] for name, spec in started.items()} == {name: ["serve", name] for name in production.NAMES}
    assert "migrate" in typer.main.get_command(app).commands  # type: ignore[attr-defined]


@every_values
@pytest.mark.parametrize("service", SERVICES)
def test_a_process_is_asked_where_it_answers_and_has_the_time_to_end(service: str, values: Path) -> None:
    spec = services(rendered(values))[service]
    [container] = spec["containers"]
    assert [(p["name"], str(p["containerPort"])) for p in container["ports"]] == [("http", IMAGE.environment["TRIMTAB_PORT"])]
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    alive, ready = {"path": "/livez", "port": "http"}, {"path": "/readyz", "port": "http"}
    assert asked == {"startup": alive, "liveness": alive, "readiness": ready}
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] + DRAIN < spec["terminationGracePeriodSeconds"] == 30


@every_values
def test_nothing_runs_as_root_gains_rights_or_writes_beside_its_volumes(values: Path) -> None:
    user = int(IMAGE.last("USER").split(":")[0])
    for name, spec in pods(rendered(values)):
        pod, [container] = spec["securityContext"], spec["containers"]
        assert (pod["runAsNonRoot"], pod["runAsUser"], pod["seccompProfile"]) == (True, user, {"type": "RuntimeDefault"}), name
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"] and own["runAsNonRoot"] and own["allowPrivilegeEscalation"] is False, name
        assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, f"{name}: what a Service called trimtab-... sets would be taken for settings, and refused"
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]) and "memory" in container["resources"]["limits"], name


@every_values
def test_a_service_finds_its_pods_and_others_find_the_service(values: Path) -> None:
    objects = rendered(values)
    labels = {name: o["spec"]["template"]["metadata"]["labels"] for name, o in running(objects).items()}
    selectors = {o["metadata"]["name"]: o["spec"]["selector"].items() for o in objects if o["kind"] == "Service"}
    found = {name: [n for n in SERVICES if selector <= labels[n].items()] for name, selector in selectors.items()}
    [full] = {o["metadata"]["name"] for o in objects if o["kind"] == "ConfigMap"}
    assert found == {f"{full}-{name}": [name] for name in SERVICES} | {f"{full}-rules-pods": ["rules"]}
    told = environment(services(objects)["console"], objects)
    assert {told[f"TRIMTAB_{n.upper()}_URL"] for n in ("ingest", "rules", "actions")} == {f"http://{full}-{n}:8420" for n in ("ingest", "rules", "actions")}
    engines = environment(services(objects)["rules"], objects)
    assert engines["TRIMTAB_ADVERTISE"] == "http://$(POD_IP):8420" and list(engines).index("POD_IP") < list(engines).index("TRIMTAB_ADVERTISE")
    [stateful] = [o for o in objects if o["kind"] == "StatefulSet"]
    assert stateful["spec"]["serviceName"] == f"{full}-rules-pods"


def test_the_alerts_are_those_that_were_tested() -> None:
    alerts = ROOT / "deploy" / "prometheus" / "alerts.yaml"
    assert (CHART / "files" / "alerts.yaml").read_text() == alerts.read_text(), f"cp {alerts.relative_to(ROOT)} helm/trimtab/files/"
    made = named(rendered(LEAST, "--set", "prometheusRule.enabled=true"))["PrometheusRule trimtab"]
    assert made["spec"] == yaml.safe_load(alerts.read_text())


def test_prometheus_finds_every_service_once_under_the_name_that_the_alerts_ask_for() -> None:
    objects = named(rendered(CHART / "ci" / "all-values.yaml"))
    monitor = objects["ServiceMonitor trimtab"]["spec"]
    asked = monitor["selector"]["matchLabels"]
    port = monitor["endpoints"][0]["port"]
    found = [o for o in objects.values() if o["kind"] == "Service" and asked.items() <= o["metadata"]["labels"].items()]
    jobs = {o["metadata"]["name"]: o["metadata"]["labels"][monitor["jobLabel"]] for o in found if port in {p["name"] for p in o["spec"]["ports"]}}
    assert jobs == {f"trimtab-{name}": "trimtab" for name in SERVICES}
    assert monitor["endpoints"][0]["path"] == "/metrics"


def test_who_scales_by_load_is_not_told_a_number_and_the_engine_scales_by_its_lag() -> None:
    objects = named(rendered(CHART / "ci" / "all-values.yaml"))
    scaled = objects["ScaledObject rules"]["spec"]
    assert scaled["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "trimtab-rules"}
    [trigger] = scaled["triggers"]
    assert (trigger["type"], trigger["metadata"]["consumerGroup"], trigger["metadata"]["topic"]) == ("kafka", "marketing.rules", "marketing.events")
    assert (trigger["metadata"]["sasl"], trigger["metadata"]["tls"]) == ("scram_sha512", "enable")
    assert objects["TriggerAuthentication rules"]["metadata"]["name"] == trigger["authenticationRef"]["name"]
    assert scaled["minReplicaCount"] >= 1 and scaled["maxReplicaCount"] == 24
    assert "replicas" not in objects["StatefulSet rules"]["spec"] and "HorizontalPodAutoscaler rules" not in objects
    for name in ("ingest", "actions", "console"):
        assert objects[f"HorizontalPodAutoscaler {name}"]["spec"]["scaleTargetRef"]["name"] == f"trimtab-{name}"
        assert "replicas" not in objects[f"Deployment {name}"]["spec"]
    by_cpu = named(rendered(LEAST, "--set", "rules.autoscaling.enabled=true"))
    assert by_cpu["HorizontalPodAutoscaler rules"]["spec"]["scaleTargetRef"]["kind"] == "StatefulSet"


def test_only_those_who_need_to_reach_a_service() -> None:
    def who(name: str, objects: dict[str, Any]) -> list[str]:
        [rule] = objects[f"NetworkPolicy {name}"]["spec"]["ingress"]
        ours = [p.get("podSelector", {}).get("matchLabels", {}) for p in rule.get("from", ())]
        return [labels.get("app.kubernetes.io/component", "others") for labels in ours] or ["everybody"]

    least, every = named(rendered()), named(rendered(CHART / "ci" / "all-values.yaml"))
    inside = {"rules": ["console", "rules", "test"], "actions": ["console", "test"]}
    assert {n: who(n, least) for n in SERVICES} == inside | {"ingest": ["everybody"], "console": ["everybody"]}
    assert {n: who(n, every) for n in SERVICES} == {
        "rules": [*inside["rules"], "others"], "actions": [*inside["actions"], "others"],
        "ingest": ["console", "test", "others", "others"], "console": ["test", "others", "others"],
    }  # fmt: skip


def test_what_one_is_disrupted_by_leaves_the_others() -> None:
    objects = named(rendered())
    for name in SERVICES:
        kind = "StatefulSet" if name == "rules" else "Deployment"
        budget, runs = objects[f"PodDisruptionBudget {name}"]["spec"], objects[f"{kind} {name}"]["spec"]
        assert budget["selector"] == runs["selector"] and budget["maxUnavailable"] < runs["replicas"]
        assert {c["topologyKey"] for c in runs["template"]["spec"]["topologySpreadConstraints"]} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}


def test_the_schema_is_migrated_before_anything_else_by_its_owner() -> None:
    job = named(rendered(CHART / "ci" / "all-values.yaml"))["Job migrate"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    [container] = job["spec"]["template"]["spec"]["containers"]
    told = {e["name"]: e["value"] for e in container["env"]}
    assert container["args"] == ["migrate"] and "envFrom" not in container, "the ConfigMap is not there yet"
    assert "trimtab_owner@" in told["TRIMTAB_DATABASE"] and told["TRIMTAB_DATABASE_PASSWORD_FILE"].endswith("/owner-password")
    assert "Job migrate" not in named(rendered(LEAST, "--set", "migration.enabled=false"))


def test_the_ledger_is_witnessed_on_a_volume_where_one_is_named() -> None:
    for values, where in ((LEAST, None), (CHART / "ci" / "all-values.yaml", "/var/lib/witness")):
        objects = rendered(values)
        spec = services(objects)["actions"]
        mounts = {m["mountPath"]: m["name"] for m in spec["containers"][0]["volumeMounts"]}
        claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v}
        assert environment(spec, objects).get("TRIMTAB_WITNESS") == where
        assert (claims, where is None or mounts[where]) == (({"witness": "witness"}, "witness") if where else ({}, True))


def test_a_changed_setting_starts_the_processes_anew() -> None:
    def sums(*words: str) -> set[str]:
        return {o["spec"]["template"]["metadata"]["annotations"]["checksum/settings"] for o in running(rendered(LEAST, *words)).values()}

    assert len(sums()) == 1 and sums() != sums("--set", "log.level=debug")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("existingSecret=", "existingSecret is empty: create a Secret"),
        ("kafka.brokers=", "kafka.brokers is empty: give the brokers as host:port"),
        ("kafka.brokers=kafka", "/kafka/brokers"),
        ("database.address=", "database.address is empty: give postgresql+asyncpg://"),
        ("database.address=postgresql://trimtab:hunter2@db/trimtab", "database.address holds a password: take it out"),
        ("database.address=mysql://trimtab@db/trimtab", "/database/address"),
        ("kafka.security=TLS", "value must be one of 'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT', 'SASL_SSL'"),
        ("kafka.security=SASL_SSL", "kafka.security is SASL_SSL: give kafka.user"),
        ("kafka.security=SASL_SSL,kafka.user=trimtab,rules.kafka.passwordKey=kafka-rules", "or ingest.kafka.user and ingest.kafka.passwordKey"),
        ("kafka.ca=ca.pem", "kafka.ca is a key of tlsSecret, which is empty"),
        ("migration.databaseAddress=postgresql://owner@db/trimtab", "say in secretKeys.migrationPassword"),
        ("rules.replicas=13", "rules.replicas is 13, and kafka.partitions 12"),
        ("rules.keda.enabled=true,rules.keda.maxReplicas=13", "rules.keda.maxReplicas is 13, and kafka.partitions 12"),
        ("rules.keda.enabled=true,rules.autoscaling.enabled=true", "rules.keda and rules.autoscaling are both enabled"),
        ("rules.keda.minReplicas=0", "/rules/keda/minReplicas"),
        ("rules.replicas=two", "/rules/replicas"),
        ("rule.replicas=2", "additional properties 'rule' not allowed"),
        ("actions.mode=pause", "value must be one of 'execute', 'hold'"),
        ("settings.TRIMTAB_KAFKA_PASSWORD=hunter2", "/settings/TRIMTAB_KAFKA_PASSWORD"),
        ("ingest.settings.LOG_LEVEL=debug", "at '/ingest/settings': additional properties 'LOG_LEVEL' not allowed"),
        ("console.url=trimtab.example.org", "/console/url"),
        ("ingress.console.host=https://trimtab.example.org", "/ingress/console/host"),
        ("image.digest=sha256:1234", "/image/digest"),
        ("rules.checkpoints.size=ten", "/rules/checkpoints/size"),
        ("podLabels.app\\.kubernetes\\.io/name=x", "/podLabels"),
        ("secretKeys.secret=", "/secretKeys/secret"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_its_name(wrong: str, said: str) -> None:
    told = helm("template", "trimtab", CHART, "-f", LEAST, "--set", wrong, fails=True)
    assert said in told, told
    assert "hunter2" not in told


def test_values_that_are_no_values_are_refused_wherever_they_stand() -> None:
    """Each folder of the values knows all its names."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    free = {"settings", "annotations", "podAnnotations", "podLabels", "labels", "nodeSelector", "affinity", "requests", "limits"}

    def folders(there: dict[str, Any], path: str = "") -> list[str]:
        inner = [(f"{path}{name}.", v) for name, v in there.items() if isinstance(v, dict) and name not in free]
        return [path, *(p for at, v in inner for p in folders(v, at))]

    every = folders(values)
    assert len(every) > 20
    schema = json.loads((CHART / "values.schema.json").read_text())

    def at(path: str) -> dict[str, Any]:
        found = schema
        for name in path.split(".")[:-1]:
            found = found["properties"][name]
            if "$ref" in found:
                found = schema["$defs"][found["$ref"].rpartition("/")[2]]
        return found

    for path in every:
        assert at(path)["additionalProperties"] is False, path
        here: Any = values
        for name in path.split(".")[:-1]:
            here = here[name]
        assert set(here) <= set(at(path)["properties"]), path


def test_the_chart_is_of_the_version_that_it_installs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
    assert rendered()[-1] and {s["containers"][0]["image"] for s in services(rendered()).values()} == {f"trimtab:{VERSION}"}


def test_no_secret_is_given_as_a_setting() -> None:
    refused = json.loads((CHART / "values.schema.json").read_text())["$defs"]["settings"]["properties"]
    assert set(refused) == SECRET


def test_every_value_is_documented_and_what_is_documented_is_a_value() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    rows = "".join(re.findall(r"^\| `.+? \|", text, re.M))

    def names(text: str) -> set[str]:
        return {name.replace("SERVICE", service) for name in re.findall(r"`([\w.]+)`", text) for service in SERVICES}

    known = set(values) | {f"{name}.{inner}" for name, there in values.items() if isinstance(there, dict) for inner in there}
    told = names(text) | {name.partition(".")[0] for name in names(text)}  # where its parts are told, it is
    assert names(rows) - known == set()
    assert {name for name in known if name not in told and name.rpartition(".")[0] not in names(rows)} == set()
