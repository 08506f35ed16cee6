"""While everything fails in turn, no audit is lost, none ends twice, and each report is the fault-free one."""

import json
from contextlib import suppress
from pathlib import Path

import httpx2
import psutil
import pytest

from peelbound.service.database.audits import Audits
from peelbound.service.database.tokens import Tokens
from peelbound.service.schemas.record import AuditRecord, AuditState
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.storage.open import open_store
from tests.faults.monkey import Monkey
from tests.faults.topology import Topology, topology
from tests.integration.controller.harness import request_for, save_documents, save_model
from tests.waiting import DEADLINE_SECONDS, until

AUDITS_AT_ONCE = 2
FAULTS_A_ROUND = 8


class User:
    """Somebody who asks either replica, again and again, until it answers."""

    def __init__(self, topology: Topology, tenant: str) -> None:
        self._topology, self.tenant = topology, tenant
        token = Tokens(topology.engine).create(tenant, "user", frozenset({"read", "write"}))
        self._client = httpx2.Client(headers={"Authorization": f"Bearer {token}"}, timeout=10, trust_env=False)

    def ask(self, method: str, path: str, **content: object) -> httpx2.Response:
        """The first answer that is not the service's own trouble."""
        answers: list[httpx2.Response] = []

        def answered() -> bool:
            for url in self._topology.urls:
                try:
                    answer = self._client.request(method, url + path, **content)  # type: ignore[arg-type] # by name
                except httpx2.TransportError:
                    continue
                if answer.status_code < 500:
                    answers.append(answer)
                    return True
            return False

        until(answered, DEADLINE_SECONDS, f"{method} {path} is answered")
        return answers[0]

    def submit(self, request: AuditRequest, key: str) -> str:
        """The audit's id; however often it is sent, there is one audit."""
        answer = self.ask("POST", "/v1/audits", headers={"Idempotency-Key": key}, json=request.model_dump(mode="json"))
        assert answer.status_code in (200, 202), answer.text
        found: str = answer.json()["id"]
        return found

    def record(self, audit: str) -> AuditRecord:
        """The audit now."""
        answer = self.ask("GET", f"/v1/audits/{audit}")
        assert answer.status_code == 200, answer.text
        return AuditRecord.model_validate_json(answer.content)

    def end(self, audit: str) -> AuditRecord:
        """The audit once it has ended."""
        records: list[AuditRecord] = []

        def ended() -> bool:
            answer = self.ask("GET", f"/v1/audits/{audit}?wait=5")
            assert answer.status_code == 200, answer.text
            records.append(AuditRecord.model_validate_json(answer.content))
            return records[-1].state.ended

        until(ended, DEADLINE_SECONDS, f"audit {audit} ends")
        return records[-1]

    def report(self, audit: str) -> bytes:
        """What was published."""
        answer = self.ask("GET", f"/v1/audits/{audit}/report.json")
        assert answer.status_code == 200, answer.text
        return answer.content


def ended_once_with(user: User, audit: str, expected: bytes, audits: Audits) -> None:
    record = user.end(audit)
    assert record.state is AuditState.SUCCEEDED, record.problem
    assert user.report(audit) == expected
    events = audits.events(user.tenant, audit, limit=100_000)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    states = [event.data["state"] for event in events if "state" in event.data]
    assert [AuditState(state).ended for state in states].count(True) == 1
    assert states[-1] == "succeeded"
    manifest = audits.manifest_key(user.tenant, audit)
    assert manifest is not None
    assert f"/{audit}/{record.attempt}/" in manifest  # the last attempt's, and no zombie's


def alive(process: psutil.Process) -> bool:
    """Whether it is the one that it was, and no zombie."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def nothing_half_written(topology: Topology) -> None:
    """Every object is whole: reading one checks its checksum."""
    store = open_store(topology.settings)
    keys = [stored.key for stored in store.list("tenants/")]
    assert keys
    for key in keys:
        data = store.get(key)
        if key.endswith(".json"):
            json.loads(data)
    uploads = topology.s3.server.access().client().list_multipart_uploads(Bucket="results")
    assert not uploads.get("Uploads")


@pytest.mark.timeout(0)  # every wait has its own
def test_every_audit_survives_every_fault(rounds: int, seed: int, tmp_path: Path) -> None:
    save_model(tmp_path / "inputs" / "model")
    documents = save_documents(tmp_path / "inputs" / "documents.jsonl")
    request = request_for(tmp_path / "inputs" / "model", documents)
    (tmp_path / "run").mkdir()
    before = psutil.Process().children(recursive=True)
    with topology(tmp_path / "run", tmp_path / "inputs", worker_idle_seconds=1) as running:
        audits, monkey = Audits(running.engine), Monkey(running, seed)
        undisturbed = User(running, "undisturbed")
        first = undisturbed.submit(request, "first")
        assert undisturbed.end(first).state is AuditState.SUCCEEDED
        expected = undisturbed.report(first)
        for number in range(rounds):
            submitted: list[tuple[User, str]] = []
            for _ in range(FAULTS_A_ROUND):
                while sum(not user.record(audit).state.ended for user, audit in submitted) < AUDITS_AT_ONCE:
                    user = User(running, f"round-{number}-{len(submitted)}")
                    submitted.append((user, user.submit(request, "once")))
                print(f"round {number}: {monkey.strike()}", flush=True)
            for user, audit in submitted:
                ended_once_with(user, audit, expected, audits)
                assert user.submit(request, "once") == audit
            nothing_half_written(running)
            until(lambda: not running.ray.workers(), DEADLINE_SECONDS, "idle workers are given back")
        begun = [process for process in psutil.Process().children(recursive=True) if process not in before]
        assert {process.pid for process in running.ray.processes()} < {process.pid for process in begun}
    until(lambda: not [p for p in begun if alive(p)], DEADLINE_SECONDS, "no process of any part is left")
    assert sum(monkey.survived.values()) == rounds * FAULTS_A_ROUND
    print(f"{sum(monkey.survived.values())} faults survived: {dict(monkey.survived)}")
