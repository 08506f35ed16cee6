"""The Helm chart, rendered by Helm's own library and held to Kubernetes' schemas."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from helm_python import HelmError
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.kuberay.utils import parse_quantity

from peelbound import __version__
from peelbound.api.__main__ import LAST_SECONDS
from peelbound.service.controller.cluster import fitting
from peelbound.service.settings import Settings

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "peelbound"
KUBERNETES = ("1.28", "1.34")
CUSTOM = {"ray.io", "monitoring.coreos.com"}
"""Of operators: their schemas come in no package. The Ray cluster was held to KubeRay 1.6's by hand."""

LEAST: dict[str, Any] = {"store": {"url": "s3://bucket/results"}}
MOST: dict[str, Any] = {
    "store": {"url": "s3://bucket/results", "endpoint": "https://s3", "region": "r", "secret": {"name": "keys"}},
    "settings": {"allow": ["s3://models"], "workers": 4, "worker_gpus": 0.5, "tenant_active_audits": 50},
    "api": {
        "hosts": ["peelbound.example"],
        "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls"},
        "extraEnv": [{"name": "FORWARDED_ALLOW_IPS", "value": "10.0.0.0/8"}],
    },
    "controller": {
        "extraEnv": [
            {"name": "OTEL_EXPORTER_OTLP_HEADERS", "valueFrom": {"secretKeyRef": {"name": "otlp", "key": "headers"}}}
        ]
    },
    "ray": {
        "tokenSecret": "token",
        "gcsFaultTolerance": {"enabled": True, "redisAddress": "redis:6379", "passwordSecret": {"name": "redis"}},
        "groups": [
            {"name": "cpu", "min": 0, "max": 4, "resources": {"limits": {"cpu": "2", "memory": "8Gi"}}},
            {
                "name": "gpu",
                "min": 0,
                "max": 2,
                "resources": {"limits": {"cpu": 4, "memory": "16Gi", "nvidia.com/gpu": 1}},
                "sharedMemory": "8Gi",
                "nodeSelector": {"gpu": "h100"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            },
        ],
    },
    "networkPolicy": {
        "apiFrom": [{"namespaceSelector": {}}],
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
        "headEgress": [{"to": [{"ipBlock": {"cidr": "172.20.0.1/32"}}], "ports": [{"port": 443}]}],
    },
    "monitoring": {"enabled": True, "labels": {"release": "prometheus"}, "tokenSecret": {"name": "metrics"}},
    "data": {"claim": "models"},
    "images": {"pullSecrets": ["one", "two"]},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn"}},
}


def with_limits(limits: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Values with one group whose pods have these limits."""
    group = {"name": "one", "min": 0, "max": 3, "resources": {"limits": limits}}
    return LEAST | {"ray": {"groups": [group]}, "settings": settings}


def documents(values: dict[str, Any]) -> list[dict[str, Any]]:
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(values, name="demo", namespace="prod")
    texts = [text for name, text in sorted(rendered.items()) if name.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def of_kind(found: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for document in found if document["kind"] == kind}


def pods(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for document in found:
        if document["kind"] in ("Deployment", "Job"):
            yield document["spec"]["template"]["spec"]
        if document["kind"] == "RayCluster":
            for group in [document["spec"]["headGroupSpec"], *document["spec"]["workerGroupSpecs"]]:
                yield group["template"]["spec"]


def autoscaled(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What Ray's own autoscaler makes of the groups; it raises for one without CPUs."""
    there = cluster | {"metadata": cluster["metadata"] | {"namespace": "prod"}}
    found = _derive_autoscaling_config_from_ray_cr(there)["available_node_types"]
    return {name: kind for name, kind in found.items() if name != "headgroup"}


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_what_is_rendered_is_valid(values: dict[str, Any]) -> None:
    lint = helm_python.lint(CHART, values, strict=True)
    assert lint["errors"] == []
    assert [message for message in lint["messages"] if message["severity"] > 1] == []
    found = documents(values)
    for document in found:
        if document["apiVersion"].partition("/")[0] not in CUSTOM:
            for version in KUBERNETES:
                kubernetes_validate.validate(document, version, strict=True)
    names = [(document["kind"], document["metadata"]["name"]) for document in found]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "url"),
        ({"store": {"url": "bucket"}}, "url"),
        (LEAST | {"settings": {"database_url": "x"}}, "database_url"),
        (LEAST | {"settings": {"tenant_alow": {}}}, "tenant_alow"),
        (LEAST | {"settings": {"drain_seconds": -1}}, "drain_seconds"),
        (LEAST | {"settings": {"drain_seconds": "long"}}, "drain_seconds"),
        (LEAST | {"api": {"replicaz": 3}}, "replicaz"),
        (LEAST | {"api": {"extraEnv": [{"name": "PEELBOUND_ALLOW", "value": "[]"}]}}, "extraEnv"),
        (LEAST | {"monitoring": {"enabled": True}}, "name"),
        (LEAST | {"ray": {"groups": []}}, "groups"),
        (with_limits({"memory": "8Gi", "nvidia.com/gpu": 1}), "cpu"),
        (with_limits({"cpu": 1}), "memory"),
        (with_limits({"cpu": "two", "memory": "8Gi"}), "cpu"),
        (LEAST | {"ray": {"gcsFaultTolerance": {"enabled": True}}}, "redisAddress"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(HelmError, match=said), helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_every_variable_is_a_setting_that_can_be_read(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for pod in pods(documents(values)):
        for container in pod["containers"]:
            given = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
            ours = {name: value for name, value in given.items() if name.startswith("PEELBOUND_")}
            assert {name.removeprefix("PEELBOUND_").lower() for name in ours} <= set(Settings.model_fields)
            with monkeypatch.context() as environment:
                for name, value in ours.items():
                    if value is not None:
                        environment.setenv(name, value)
                settings = Settings()
            assert settings.allow == values.get("settings", {}).get("allow", []) or not ours


@pytest.mark.parametrize(
    ("value", "text"), [(16777216, "16777216"), (10**13, "10000000000000"), (0.5, "0.5"), (0, "0"), (1e-07, "1e-07")]
)
def test_a_number_is_written_as_settings_read_it(value: float, text: str) -> None:
    for name, deployment in of_kind(documents(LEAST | {"settings": {"retry_seconds": value}}), "Deployment").items():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert {"name": "PEELBOUND_RETRY_SECONDS", "value": text} in container["env"], name


def test_variables_that_are_no_settings_reach_api_and_controllers() -> None:
    deployments = of_kind(documents(MOST), "Deployment")
    for part in ("api", "controller"):
        (container,) = deployments[f"demo-peelbound-{part}"]["spec"]["template"]["spec"]["containers"]
        assert [entry for entry in container["env"] if entry in MOST[part]["extraEnv"]] == MOST[part]["extraEnv"]


def test_the_schema_takes_all_settings_but_those_that_the_chart_makes() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    taken = schema["properties"]["settings"]["propertyNames"]["enum"]
    without = {name: value for name, value in MOST.items() if name != "settings"}
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["settings"]
    made = {
        entry["name"].removeprefix("PEELBOUND_").lower()
        for pod in pods(documents(without))
        for container in pod["containers"]
        for entry in container.get("env", [])
        if entry["name"].startswith("PEELBOUND_")
    } - {*defaults, "cluster_workers"}  # which may be set, too
    assert taken == [name for name in Settings.model_fields if name not in made]


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_every_container_is_confined_and_probed(values: dict[str, Any]) -> None:
    for pod in pods(documents(values)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "livenessProbe" in container or pod.get("restartPolicy") == "Never"


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_rays_object_store_fits_into_shared_memory(values: dict[str, Any]) -> None:
    looked = 0
    for pod in pods(documents(values)):
        for volume in pod["volumes"]:
            if volume["name"] == "shared-memory" and "sizeLimit" in volume["emptyDir"]:
                (container,) = pod["containers"]
                memory = parse_quantity(container["resources"]["limits"]["memory"])
                assert parse_quantity("0.3") * memory <= parse_quantity(volume["emptyDir"]["sizeLimit"]) < memory
                looked += 1
    assert looked == 2  # of the others the limit is the pod's own


@pytest.mark.parametrize("drain", [None, 0, 5.5, 600])
def test_a_replica_has_the_time_to_drain_and_to_end_what_it_has_in_hand(drain: float | None) -> None:
    values = LEAST if drain is None else LEAST | {"settings": {"drain_seconds": drain}}
    pod = of_kind(documents(values), "Deployment")["demo-peelbound-api"]["spec"]["template"]["spec"]
    given = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    drains = float(given["PEELBOUND_DRAIN_SECONDS"])
    assert drains == (5 if drain is None else drain)
    assert 10 <= pod["terminationGracePeriodSeconds"] - drains - LAST_SECONDS < 20


def test_the_ray_cluster_asks_for_tokens_scales_itself_and_may_outlive_its_head() -> None:
    (least,) = of_kind(documents(LEAST), "RayCluster").values()
    (most,) = of_kind(documents(MOST), "RayCluster").values()
    assert least["spec"]["authOptions"] == {"mode": "token"}
    assert most["spec"]["authOptions"] == {"mode": "token", "secretName": "token"}
    assert least["spec"]["enableInTreeAutoscaling"] is True
    assert "gcsFaultToleranceOptions" not in least["spec"]
    assert most["spec"]["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
    pinned = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert least["spec"]["rayVersion"] == pinned["ray"]
    assert least["spec"]["upgradeStrategy"] == {"type": "Recreate"}  # or an upgrade changes controllers alone
    controllers = of_kind(documents(LEAST), "Deployment")["demo-peelbound-controller"]
    environment = {e["name"]: e for e in controllers["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert environment["PEELBOUND_RAY_ADDRESS"]["value"] == f"{least['metadata']['name']}-head-svc:6379"
    token = environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert token == {"name": least["metadata"]["name"], "key": "auth_token"}


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_rays_autoscaler_understands_every_group(values: dict[str, Any]) -> None:
    (cluster,) = of_kind(documents(values), "RayCluster").values()
    groups = cluster["spec"]["workerGroupSpecs"]
    assert {name: kind["max_workers"] for name, kind in autoscaled(cluster).items()} == {
        group["groupName"]: group["maxReplicas"] for group in groups
    }


CPUS = {"cpu": "3", "memory": "8Gi"}


@pytest.mark.parametrize(
    "values",
    [
        LEAST,
        MOST,
        with_limits(CPUS | {"cpu": 2.5}),
        with_limits(CPUS | {"cpu": "1500m"}),
        with_limits(CPUS | {"nvidia.com/gpu": 2}, worker_gpus=0.3),
        with_limits(CPUS | {"nvidia.com/gpu": "4"}, worker_gpus=2),
        with_limits(CPUS | {"nvidia.com/gpu": 8}, worker_gpus=1),
    ],
)
def test_pools_may_grow_as_far_as_the_groups(values: dict[str, Any]) -> None:
    found = documents(values)
    (cluster,) = of_kind(found, "RayCluster").values()
    share = values.get("settings", {}).get("worker_gpus", 0)
    room = sum(kind["max_workers"] * fitting(kind["resources"], share) for kind in autoscaled(cluster).values())
    deployments = of_kind(found, "Deployment")
    (controller,) = deployments["demo-peelbound-controller"]["spec"]["template"]["spec"]["containers"]
    given = {entry["name"]: entry.get("value") for entry in controller["env"]}
    assert room > 0
    assert given["PEELBOUND_CLUSTER_WORKERS"] == str(room)


def test_how_far_pools_grow_may_be_set_and_must_not_be_nothing() -> None:
    found = of_kind(documents(LEAST | {"settings": {"cluster_workers": 5}}), "Deployment")
    (controller,) = found["demo-peelbound-controller"]["spec"]["template"]["spec"]["containers"]
    assert [entry["value"] for entry in controller["env"] if entry["name"] == "PEELBOUND_CLUSTER_WORKERS"] == ["5"]
    with pytest.raises(HelmError, match="not a single worker fits"):
        documents(with_limits(CPUS, worker_gpus=1))


def test_only_the_api_is_open_to_others_and_budgets_match_what_runs() -> None:
    found = documents(LEAST)
    policies = of_kind(found, "NetworkPolicy")
    assert policies["demo-peelbound-api"]["spec"]["ingress"] == [{"ports": [{"port": "http"}]}]
    (among,) = policies["demo-peelbound-ray"]["spec"]["ingress"]
    assert all("podSelector" in peer and peer["podSelector"]["matchLabels"] for peer in among["from"])
    labels = {
        name: document["spec"]["template"]["metadata"]["labels"]
        for name, document in of_kind(found, "Deployment").items()
    }
    budgets = of_kind(found, "PodDisruptionBudget")
    for name, own in labels.items():
        assert budgets[name]["spec"]["selector"]["matchLabels"].items() <= own.items()
    assert set(budgets) == {*labels, "demo-peelbound-ray-head"}


def test_prometheus_reaches_what_it_is_to_scrape() -> None:
    prometheus = MOST["networkPolicy"]["metricsFrom"]
    policies = of_kind(documents(MOST), "NetworkPolicy")
    (api,) = policies["demo-peelbound-api"]["spec"]["ingress"]
    assert api["from"] == MOST["networkPolicy"]["apiFrom"] + prometheus
    assert {"ports": [{"port": 9464}], "from": prometheus} in policies["demo-peelbound-ray"]["spec"]["ingress"]
    monitored = LEAST | {"monitoring": MOST["monitoring"]}
    with pytest.raises(HelmError, match="metricsFrom"):
        documents(monitored)
    assert documents(monitored | {"networkPolicy": {"enabled": False}})


def test_the_head_reaches_what_its_autoscaler_asks_where_egress_is_restricted() -> None:
    policies = of_kind(documents(MOST), "NetworkPolicy")
    assert all("Egress" in policy["spec"]["policyTypes"] for policy in policies.values())
    assert policies["demo-peelbound-ray-head"]["spec"] == {
        "podSelector": {
            "matchLabels": {"ray.io/cluster": "demo-peelbound-ray"},
            "matchExpressions": [{"key": "ray.io/node-type", "operator": "In", "values": ["head", "redis-cleanup"]}],
        },
        "policyTypes": ["Egress"],
        "egress": MOST["networkPolicy"]["headEgress"],
    }
    open_ = of_kind(documents(LEAST), "NetworkPolicy")
    assert all(policy["spec"]["policyTypes"] == ["Ingress"] for policy in open_.values())
    with pytest.raises(HelmError, match="headEgress"):
        documents(LEAST | {"networkPolicy": {"egress": MOST["networkPolicy"]["egress"]}})


def test_the_rules_are_the_alerts_and_the_chart_is_this_versions() -> None:
    (rules,) = of_kind(documents(MOST), "PrometheusRule").values()
    alerts = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    assert rules["spec"] == alerts
    replacements = {
        rule["replacement"]
        for monitor in of_kind(documents(MOST), "PodMonitor").values()
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
        for rule in endpoint["relabelings"]
    }
    assert replacements == set(re.findall(r'job="([^"]+)"', json.dumps(alerts).replace('\\"', '"')))
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["version"] == chart["appVersion"] == __version__
