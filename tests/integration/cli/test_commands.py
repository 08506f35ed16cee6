"""The commands against a real service: what they print, and the exit codes that scripts rely on."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from peelbound.cli.commands.audit import forget
from peelbound.client import Client
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.report import Report
from tests.integration.cli.conftest import PEELBOUND, Run
from tests.integration.client.harness import REQUEST, Service
from tests.synthetic_reports.whole import estimate_report, frozen_report, sound_report

AUDIT = ("audit", "/data/ckpt", "--calibration", "/data/text.jsonl")
MISSING_SHARD = Problem.make(
    "checkpoint-shard-missing", "A shard is missing", 422, "model-2.safetensors is missing.", "Copy it too."
)


@pytest.mark.parametrize(
    ("report", "fail_on", "code"),
    [
        (sound_report(), None, 0),
        (frozen_report(), None, 1),
        (frozen_report(), "adaptable,inconclusive", 0),
        (frozen_report(), "inert", 1),
        (frozen_report(), "never", 0),
        (estimate_report(), None, 1),
        (estimate_report(), "improvable,inert,lagging", 0),
        (estimate_report(), "estimate_only", 1),
    ],
)
def test_audit_judges_the_verdict(
    served: Run, service: Service, tmp_path: Path, report: Report, fail_on: str | None, code: int
) -> None:
    rule = () if fail_on is None else ("--fail-on", fail_on)
    with service.ending_the_next(report):
        done = served(*AUDIT, *rule, "--out", str(tmp_path / "out"), "--label", "owner=me")
    assert done.returncode == code, done.stderr
    assert report.verdict.headline.split(":")[0] in done.stdout.replace("\n", " ")
    assert "block references" in done.stderr
    assert ("--fail-on" in done.stderr) == bool(code)
    assert (tmp_path / "out" / "report.json").read_text() == report.model_dump_json()
    assert "<html" in (tmp_path / "out" / "report.html").read_text()


def test_audit_json_is_one_document(program: Run, service: Service) -> None:
    known = {"PEELBOUND_URL": service.url, "PEELBOUND_TOKEN": service.token}
    with service.ending_the_next(frozen_report()):
        numerics = ("--anchors", "2,4", "--anchors", "4", "--precision", "bfloat16", "--compile")
        done = program(*AUDIT, "--json", "--run", "r", "--step", "3", "--deadline", "2h", *numerics, **known)
    assert done.returncode == 1
    record = json.loads(done.stdout)
    assert done.stderr.splitlines()[0] == f"Audit {record['id']}"
    assert record["summary"]["inert_blocks"] == [3]
    assert (record["request"]["step"], record["request"]["deadline_seconds"]) == (3, 7200)
    options = record["request"]["options"]
    assert (options["maps"], options["precision"], options["compile"]) == ([[2, 4], [4]], "bfloat16", True)


@pytest.mark.parametrize("words", [("--help",), ("list",), ("list", "--json")])
def test_output_that_nobody_reads_is_no_verdict(service: Service, words: tuple[str, ...]) -> None:
    """By click's own printing and by rich's."""
    with Client(service.url, service.token) as client:
        client.submit(REQUEST)
    unread, output = os.pipe()
    os.close(unread)
    environment = os.environ | {"PEELBOUND_URL": service.url, "PEELBOUND_TOKEN": service.token}
    done = subprocess.run([PEELBOUND, *words], env=environment, stdout=output, stderr=subprocess.PIPE, check=False)
    os.close(output)
    assert done.returncode == 3, done.stderr


def test_a_failed_audit_is_exit_code_3_with_the_remedy(served: Run, service: Service) -> None:
    with service.ending_the_next(MISSING_SHARD):
        done = served(*AUDIT)
    assert done.returncode == 3
    assert "model-2.safetensors is missing. Copy it too." in done.stderr


def test_a_cancelled_audit_is_exit_code_3(served: Run, service: Service) -> None:
    audit_id = served(*AUDIT, "--no-wait").stdout.strip()
    assert served("cancel", audit_id).stdout == "cancelled\n"
    done = served("wait", audit_id)
    assert done.returncode == 3
    assert "was cancelled" in done.stderr


def test_wait_judges_as_audit_does(served: Run, service: Service) -> None:
    with service.ending_the_next(frozen_report()):
        audit_id = json.loads(served(*AUDIT, "--no-wait", "--json").stdout)["id"]
        assert served("wait", audit_id).returncode == 1
    assert served("wait", audit_id, "--fail-on", "inconclusive").returncode == 0


def test_a_refused_request_is_exit_code_3_with_field_and_remedy(served: Run) -> None:
    done = served("audit", "/etc", "--calibration", "/data/text.jsonl")
    assert done.returncode == 3
    assert "/checkpoint" in done.stderr
    assert "PEELBOUND_ALLOW" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("audit", "/data/ckpt"),
        ("audit", "/data/ckpt", "--calibration", "/data/t", "--fail-on", "improvabel"),
        ("audit", "/data/ckpt", "--calibration", "/data/t", "--fail-on", "never,inert"),
        ("audit", "/data/ckpt", "--calibration", "/data/t", "--preset", "slow"),
        ("audit", "/data/ckpt", "--calibration", "/data/t", "--step", "3"),
        ("audit", "/data/ckpt", "--calibration", "/data/t", "--label", "x"),
        ("audit", "/data/ckpt", "--calibration", "/data/t", "--anchors", "1;2"),
        ("audit", "/data/ckpt", "--calibration", "/data/t", "--deadline", "2 hours"),
        ("audit", "/data/ckpt", "--calibration", "/data/t", "--fit-sequences", "1000000000"),
        ("report",),
        ("report", "x", "--out", "report.pdf"),
        ("list", "--label", "x"),
        ("audit", "~no-such-user/ckpt", "--calibration", "/data/t"),
        ("audit", "/data/ckpt", "--calibration", "/data/t", "--out", "/dev/null/out"),
        ("wait", "x", "--out", "/dev/null/out"),
        ("webhook", "create", ""),
        ("webhook", "update", "x", "--description", "a\nb"),
        ("frobnicate",),
        ("up", "--host", "0.0.0.0"),
        ("up", "--workers", "5000"),
        ("up", "--allow", "~no-such-user/data"),
    ],
)
def test_wrong_usage_is_exit_code_2(served: Run, words: tuple[str, ...]) -> None:
    done = served(*words)
    assert done.returncode == 2, done.stderr
    assert "Error" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "variables",
    [
        {"PEELBOUND_HOST": "0.0.0.0"},
        {"PEELBOUND_WORKERS": "many"},
        {"PEELBOUND_PORT": "70000"},
        {"PEELBOUND_ALLOW": "/data"},
    ],
)
def test_up_judges_what_the_environment_says_too(run: Run, variables: dict[str, str]) -> None:
    done = run("up", **variables)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


ELSEWHERE = ("audit", "s3://b/ckpt", "--calibration", "s3://b/text.jsonl")


@pytest.mark.parametrize("words", [ELSEWHERE, ("migrate",), ("token", "list")])
def test_a_list_that_is_no_json_is_named(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words, PEELBOUND_ALLOW="/data")
    assert done.returncode == 2, done.stderr
    assert 'PEELBOUND_ALLOW: This is no JSON; a list is written ["file:///data", "s3://models/"]' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("list",), ("show", "x"), ("wait", "x"), (*AUDIT, "--no-wait")])
def test_without_a_service_the_message_says_how_to_get_one(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 3
    assert "peelbound up" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("token", ["peel_secret\n", "peel_secret\nX: y", "peel_sécret"])
def test_a_token_is_never_printed(run: Run, service: Service, token: str) -> None:
    done = run("list", PEELBOUND_URL=service.url, PEELBOUND_TOKEN=token)
    assert done.returncode == 3, "it is none of the service's"
    assert "cret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_service_is_exit_code_3(run: Run) -> None:
    done = run("list", PEELBOUND_URL="http://127.0.0.1:9")
    assert done.returncode == 3
    assert "cannot be reached" in done.stderr


def test_list_show_report_and_delete(served: Run, service: Service, tmp_path: Path) -> None:
    with Client(service.url, service.token) as client:
        record = client.submit(REQUEST.model_copy(update={"run": "r/1", "step": 5, "labels": {"a": "b"}}))
        other = client.submit(REQUEST)
    service.controller.publish(service.controller.claim(), frozen_report())
    listed = json.loads(served("list", "--json").stdout)["items"]
    assert [item["id"] for item in listed] == [other.id, record.id]
    assert [item["id"] for item in json.loads(served("list", "--run", "r/1", "--json").stdout)["items"]] == [record.id]
    assert len(json.loads(served("list", "--limit", "1", "--json").stdout)["items"]) == 1
    assert record.id in served("list").stdout
    assert json.loads(served("show", record.id, "--json").stdout)["state"] == "succeeded"
    assert "block 3" in served("show", record.id).stdout
    printed = served("report", record.id).stdout
    assert "inert" in printed
    assert Report.model_validate_json(served("report", record.id, "--json").stdout) == frozen_report()
    for name in ("new/r.html", "r.json"):
        assert served("report", record.id, "--out", str(tmp_path / name)).returncode == 0
        assert (tmp_path / name).stat().st_size > 1000
    assert json.loads(served("report", "--run", "r/1").stdout)["points"][0]["step"] == 5
    nowhere = served("report", record.id, "--out", str(tmp_path / "r.json" / "r.html"))
    assert nowhere.returncode == 2
    assert "cannot be written to" in nowhere.stderr
    assert served("report", "--run", "r/1", "--out", str(tmp_path / "run.html")).returncode == 0
    assert "r/1" in (tmp_path / "run.html").read_text()
    assert json.loads(served("delete", record.id, "--json").stdout) == {"deleted": record.id}
    assert served("show", record.id).returncode == 3
    assert served("delete", other.id).returncode == 3


def test_markup_in_a_name_is_printed_as_it_is(served: Run, service: Service) -> None:
    with Client(service.url, service.token) as client:
        record = client.submit(REQUEST.model_copy(update={"checkpoint": "/data/[bold]x[/bold]"}))
    assert "/data/[bold]x[/bold]" in served("show", record.id).stdout
    assert "[bold]x" in served("list").stdout


def test_what_cannot_be_tidied_up_does_not_change_the_outcome(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(service.url, service.token) as client:
        record = client.submit(REQUEST)
        forget(client, record.id)
        assert client.get(record.id).id == record.id, "it has not ended"
        client.cancel(record.id)
        forget(client, record.id)
        forget(client, record.id)
    assert "stay in the store" in capsys.readouterr().err
    with Client("http://127.0.0.1:9", service.token) as nobody:
        forget(nobody, record.id)
