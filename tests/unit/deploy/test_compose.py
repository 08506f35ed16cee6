"""`docker-compose.yml` and the images: valid, and true to what they run. No Docker engine is asked."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from peelbound.api.__main__ import LAST_SECONDS
from peelbound.cli.main import COMMANDS
from peelbound.service.settings import Settings

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def resolved(text: str) -> str:
    """The text with every `${NAME:-default}` its default, and `$$` a dollar."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("$$", "$")


def size(text: str) -> float:
    """Bytes of a size as Compose writes it: `512m`, `4g`."""
    return float(resolved(text)[:-1]) * {"m": 2**20, "g": 2**30}[text.rstrip("}")[-1]]


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """The place of each named volume, and whether it may be written."""
    volumes = [volume.split(":") for volume in service.get("volumes", []) if ":" in volume]
    return {name: (place, "ro" not in options) for name, place, *options in volumes}


def validated(text: str) -> PyCompose:
    """The file held to the specification; variables, anchors and merges are resolved first, as Compose does."""
    compose = PyCompose.from_yaml(json.dumps(yaml.safe_load(resolved(text))))
    compose.validate()
    return compose


def test_it_is_valid_by_the_compose_specification() -> None:
    assert set(validated(TEXT).service_names()) == set(SERVICES)


@pytest.mark.parametrize(
    ("right", "mistaken"),
    [("read_only:", "read_onyl:"), (": unless-stopped", ": sometimes"), (": service_healthy", ": healthy")],
)
def test_a_mistake_would_be_seen(right: str, mistaken: str) -> None:
    with pytest.raises(ValueError, match=mistaken.strip(": ")):
        validated(TEXT.replace(right, mistaken))


def test_the_topology_is_the_promised_one() -> None:
    replicas = {name: service.get("deploy", {}).get("replicas", 1) for name, service in SERVICES.items()}
    assert {name: replicas[name] for name in ("api", "controller", "ray-head", "ray-worker", "postgres", "s3")} == {
        "api": 2,
        "controller": 2,
        "ray-head": 1,
        "ray-worker": 2,
        "postgres": 1,
        "s3": 1,
    }
    for name, service in SERVICES.items():
        awaited = service.get("depends_on", [])
        for other in awaited if isinstance(awaited, dict) else []:
            if awaited[other]["condition"] == "service_healthy":  # the API's check is its image's
                assert "healthcheck" in SERVICES[other] or SERVICES[other]["image"] == "peelbound-api", name


def test_every_variable_is_a_setting_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    image = dict(re.findall(r"\b(PEELBOUND_\w+)=(\S+)", DOCKERFILE))
    for service in [{"environment": image}, *OURS.values()]:
        variables = {name: resolved(str(value)) for name, value in service["environment"].items()}
        ours = {name for name in variables if name.startswith("PEELBOUND_")} - {"PEELBOUND_URL", "PEELBOUND_TOKEN"}
        assert {name.removeprefix("PEELBOUND_").lower() for name in ours} <= set(Settings.model_fields)
        with monkeypatch.context() as environment:
            for name in ours:
                environment.setenv(name, variables[name])
            Settings()


def test_every_command_is_there() -> None:
    for name, service in OURS.items():
        command = [resolved(word) for word in service["command"]]
        match command:
            case ["python", *_, "-m", module] | ["sh", _, module]:
                module = module.rpartition("-m ")[2].split()[0]
                if command[0] == "python":
                    assert importlib.util.find_spec(module), name
            case ["peelbound", word]:
                assert word in COMMANDS, name
            case ["peelbound-controller"]:
                assert "/usr/local/bin/peelbound-controller" in DOCKERFILE
            case ["ray", "start", *options]:
                text = subprocess.run(
                    [Path(sys.executable).with_name("ray"), "start", "--help"],
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
                assert all(option.partition("=")[0] in text for option in options), name
            case ["python", "-c", program]:
                compile(program, name, "exec")
            case _:
                pytest.fail(f"{name} runs something unknown: {command}")


def test_the_s3_server_knows_its_options() -> None:
    server, *options = SERVICES["s3"]["command"]
    weed = Path(sys.executable).with_name("weed")
    done = subprocess.run([weed, server, "-h"], capture_output=True, text=True)
    known = re.findall(r"^  (-[\w.]+)", done.stdout + done.stderr, re.MULTILINE)
    assert {option.partition("=")[0] for option in options} <= set(known)


def test_our_containers_can_change_nothing_and_gain_nothing() -> None:
    for name, service in OURS.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all("127.0.0.1" in (port if isinstance(port, str) else port["host_ip"]) for port in ports)
    last_users = re.split(r"^FROM .* AS ", DOCKERFILE, flags=re.MULTILINE)
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)[-1] == "10001:10001"
    assert all("USER 0" not in stage or stage.rindex("USER 0") < stage.rindex("USER 10001") for stage in last_users)


def test_no_container_takes_all_memory_or_fills_the_disk_with_its_log() -> None:
    for name, service in SERVICES.items():
        assert 256 * 2**20 <= size(service["mem_limit"]) <= 4 * 2**30, name
        options = service["logging"]["options"]
        assert size(options["max-size"]) * int(options["max-file"]) <= 50 * 2**20, name
        if "shm_size" in service:  # or Ray's object store, by its own default, does not fit
            assert 0.3 * size(service["mem_limit"]) <= size(service["shm_size"]) < size(service["mem_limit"]), name


def test_each_secret_is_seen_by_its_reader_alone() -> None:
    readers = {
        secret: {
            name: writes
            for name, service in SERVICES.items()
            for volume, (_, writes) in mounts(service).items()
            if volume == secret
        }
        for secret in ("tokens", "metrics-token", "grafana-password")
    }
    assert readers == {
        "tokens": {"tokens": True, "demo": False},
        "metrics-token": {"tokens": True, "prometheus": False},
        "grafana-password": {"tokens": True, "grafana": False},
    }
    (prometheus,) = (place for name, (place, _) in mounts(SERVICES["prometheus"]).items() if name == "metrics-token")
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (file,) = (job["authorization"]["credentials_file"] for job in config["scrape_configs"] if "authorization" in job)
    password = SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"]
    (grafana,) = (place for place, _ in mounts(SERVICES["grafana"]).values())
    assert (str(Path(file).parent), str(Path(password).parent)) == (prometheus, grafana)
    script = SERVICES["tokens"]["command"][-1]
    assert f"> {file}" in script
    assert f"> {password}" in script


def test_every_volume_that_our_containers_write_belongs_to_their_user() -> None:
    (made,) = re.findall(r"install --directory --owner 10001 --group 10001 (.*)$", DOCKERFILE, re.MULTILINE)
    written = {place for service in OURS.values() for place, writes in mounts(service).values() if writes}
    assert written == set(made.split())


def test_a_replica_has_the_time_to_drain_and_to_end_what_it_has_in_hand() -> None:
    assert SERVICES["api"]["stop_grace_period"] == "20s"
    assert Settings.model_fields["drain_seconds"].default + LAST_SECONDS < 20


def test_every_file_that_is_mounted_or_copied_is_there() -> None:
    files = [config["file"] for config in COMPOSE["configs"].values() if "file" in config]
    files += [service["build"]["dockerfile"] for service in OURS.values()]
    for sources in re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", DOCKERFILE, re.MULTILINE):
        files += sources.split()
    assert [name for name in files if not (ROOT / name).exists()] == []
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for name in files if not name.startswith("deploy/") or name.startswith("deploy/docker/")}
    assert {name for name in copied if not any(name == top or name.startswith(f"{top}/") for top in sent)} == set()
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    assert {service["build"]["target"] for service in OURS.values()} <= targets


def test_inline_configuration_can_be_read() -> None:
    configs = {name: resolved(config["content"]) for name, config in COMPOSE["configs"].items() if "content" in config}
    (identity,) = json.loads(configs["s3"])["identities"]
    settings = SERVICES["api"]["environment"]
    (key,) = identity["credentials"]
    assert key["accessKey"] == settings["PEELBOUND_S3_ACCESS_KEY_ID"]
    assert key["secretKey"] == resolved(settings["PEELBOUND_S3_SECRET_ACCESS_KEY"])
    assert yaml.safe_load(configs["datasource"])["datasources"]
    assert yaml.safe_load(configs["dashboards"])["providers"]


def test_the_dockerfile_has_no_known_mistakes() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "--no-color", ROOT / "deploy" / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_prometheus_scrapes_by_the_names_that_the_alerts_use() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    jobs = {job["job_name"]: job["dns_sd_configs"][0] for job in config["scrape_configs"]}
    alerts = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    assert set(jobs) == set(re.findall(r'job="([^"]+)"', alerts))
    assert all(name in SERVICES for job in jobs.values() for name in job["names"])
    image = dict(re.findall(r"\b(PEELBOUND_\w+)=(\S+)", DOCKERFILE))
    assert jobs["peelbound-api"]["port"] == int(image["PEELBOUND_PORT"])
    assert jobs["peelbound-controller"]["port"] == int(image["PEELBOUND_CONTROLLER_METRICS_PORT"])
