import json
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import anyio
import pytest
from starlette.types import Message

from peelbound import calls
from peelbound.api import planning
from peelbound.api.errors import PlanUnavailable, TenantBusy
from peelbound.api.planning import Planner
from peelbound.service.schemas.plan import AuditPlan
from peelbound.service.schemas.problem import Problem
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.settings import Settings
from tests.unit.api.harness import BODY, Api, problem
from tests.waiting import DEADLINE_SECONDS

PLAN = AuditPlan(
    preset="quick",
    blocks=4,
    parameters=10,
    checkpoint_bytes=20,
    documents={"fit": 3},
    tokens={"fit": 300},
    walks=[],
    problems={"block_reference": 4},
    maps=[],
    flops=1e9,
    state_bytes=1,
    worker_bytes=2,
    result_bytes=3,
    estimated_seconds=4,
    assumed_flops_per_second=1e9,
    workers=2,
)
REFUSAL = Problem.make("request-anchor-out-of-range", "Out of range", 422, "Anchor 9.", "Use 1..4.", "/options/maps")


def planning_process(*, says: str = "", before: str = "pass", allow: str = '["/data"]') -> list[str]:
    """A process that reads a request as the planning process does, and answers as told."""
    program = f"""
import os, sys
from peelbound.service.schemas.request import AuditRequest
assert AuditRequest.model_validate_json(sys.stdin.read()).checkpoint == "/data/ckpt"
assert os.environ["PEELBOUND_WORKERS"] == "7"
assert os.environ["PEELBOUND_ALLOW"] == {allow!r}
{before}
print({says!r})
"""
    return [sys.executable, "-P", "-c", program]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path, allow=["/data"], workers=7)


def ask(planner: Planner, tenant: str = "default") -> AuditPlan | Problem | None:
    return anyio.run(planner.plan, tenant, AuditRequest.model_validate(BODY))


def test_the_process_gets_request_and_settings_and_its_plan_comes_back(settings: Settings) -> None:
    assert ask(Planner(settings, planning_process(says=PLAN.model_dump_json()))) == PLAN


def test_the_process_may_read_what_the_tenant_may(settings: Settings) -> None:
    fenced = settings.model_copy(update={"tenant_allow": {"acme": ["s3://acme"]}})
    process = planning_process(says=PLAN.model_dump_json(), allow='["s3://acme"]')
    assert ask(Planner(fenced, process), "acme") == PLAN


def test_a_refusal_comes_back_as_it_is(settings: Settings) -> None:
    assert ask(Planner(settings, planning_process(says=REFUSAL.model_dump_json()))) == REFUSAL


@pytest.mark.parametrize(("says", "before"), [("", "sys.exit(3)"), ("not json", "pass"), ('{"blocks": 4}', "pass")])
def test_no_plan_is_not_taken_for_one(settings: Settings, says: str, before: str) -> None:
    with pytest.raises(PlanUnavailable, match="status"):
        ask(Planner(settings, planning_process(says=says, before=before)))


def test_a_process_that_takes_too_long_is_killed(settings: Settings, tmp_path: Path) -> None:
    before = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); import time; time.sleep(600)"
    with pytest.raises(PlanUnavailable, match="within 5 seconds"):
        ask(Planner(settings, planning_process(before=before), timeout_seconds=5))
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


class TestTurns:
    def test_what_is_being_computed_is_waited_for(self) -> None:
        assert planning.TURN_SECONDS > planning.TIMEOUT_SECONDS
        assert calls.PLAN_SECONDS > planning.TURN_SECONDS + planning.TIMEOUT_SECONDS

    def test_a_tenant_that_asks_for_too_many_is_refused(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun: list[str] = []

        async def plans() -> None:
            planner, go_on = Planner(settings), anyio.Event()

            async def computed(tenant: str, request: AuditRequest) -> CompletedProcess[bytes]:
                begun.append(tenant)
                await go_on.wait()
                return CompletedProcess([], 0, PLAN.model_dump_json().encode())

            monkeypatch.setattr(planner, "_computed", computed)
            request = AuditRequest.model_validate(BODY)
            async with anyio.create_task_group() as asked:
                for _ in range(planning.MOST_OF_A_TENANT):
                    asked.start_soon(planner.plan, "greedy", request)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(TenantBusy) as refused:
                    await planner.plan("greedy", request)
                assert refused.value.extra["retry_after"] > 0
                asked.start_soon(planner.plan, "other", request)
                await anyio.wait_all_tasks_blocked()
                assert begun == ["greedy"] * planning.AT_ONCE
                go_on.set()
            assert begun[planning.AT_ONCE] == "other"
            assert begun.count("greedy") == planning.MOST_OF_A_TENANT
            assert await planner.plan("greedy", request) == PLAN

        anyio.run(plans)

    def test_nothing_is_begun_for_a_client_that_has_hung_up(self, settings: Settings, tmp_path: Path) -> None:
        async def hung_up() -> None:
            pass

        planner = Planner(settings, planning_process(before=f"open({str(tmp_path / 'begun')!r}, 'w')"))
        assert anyio.run(planner.plan, "default", AuditRequest.model_validate(BODY), hung_up) is None
        assert not (tmp_path / "begun").exists()

    def test_a_turn_that_does_not_come_is_not_waited_for_for_ever(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def plans() -> None:
            planner = Planner(settings)
            async with planner._turn("one"), planner._turn("another"):
                monkeypatch.setattr(planning, "TURN_SECONDS", 0.0)
                with pytest.raises(PlanUnavailable, match="turn did not come"):
                    await planner.plan("default", AuditRequest.model_validate(BODY))

        anyio.run(plans)


def test_the_route_answers_with_the_plan_or_the_refusal(api: Api) -> None:
    app = api.client.app
    app.state.planner = Planner(api.context.settings, planning_process(says=PLAN.model_dump_json()))
    assert AuditPlan.model_validate_json(api.client.post("/v1/audits:plan", json=BODY).content) == PLAN
    app.state.planner = Planner(api.context.settings, planning_process(says=REFUSAL.model_dump_json()))
    response = api.client.post("/v1/audits:plan", json=BODY)
    assert problem(response, 422, "request-anchor-out-of-range")["pointer"] == "/options/maps"
    app.state.planner = Planner(api.context.settings, planning_process(before="sys.exit(1)"))
    response = api.client.post("/v1/audits:plan", json=BODY)
    problem(response, 503, "plan-unavailable")
    assert response.headers["retry-after"]


def test_a_client_that_hangs_up_takes_its_plan_with_it_and_is_not_counted(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = Planner(api.context.settings)
    ended: list[bool] = []
    sent: list[Message] = []
    app: Any = api.client.app
    app.state.planner = planner

    async def plans() -> None:
        begun = anyio.Event()

        async def computed(_tenant: str, _request: AuditRequest) -> CompletedProcess[bytes]:
            begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(True)
            raise AssertionError

        messages = iter([{"type": "http.request", "body": json.dumps(BODY).encode(), "more_body": False}])

        async def receive() -> Message:
            if (message := next(messages, None)) is not None:
                return message
            await begun.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        monkeypatch.setattr(planner, "_computed", computed)
        headers = [(b"authorization", api.client.headers["Authorization"].encode()), (b"host", b"127.0.0.1:8734")]
        headers.append((b"content-type", b"application/json"))
        scope = {"type": "http", "scheme": "http", "method": "POST", "path": "/v1/audits:plan", "query_string": b""}
        with anyio.fail_after(DEADLINE_SECONDS):
            await app(scope | {"headers": headers}, receive, send)

    assert api.client.portal is not None
    api.client.portal.call(plans)
    assert (ended, sent) == ([True], [])
    assert planner._places._taken == {}


def test_nothing_is_planned_for_a_uri_that_may_not_be_read(api: Api) -> None:
    response = api.client.post("/v1/audits:plan", json={**BODY, "checkpoint": "/etc"})
    assert problem(response, 422, "uri-refused")["pointer"] == "/checkpoint"
    assert api.client.get("/v1/audits").json()["items"] == []


def test_a_replica_without_torch_says_where_to_ask(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "find_spec", lambda _: None)
    answer = problem(api.client.post("/v1/audits:plan", json=BODY), 503, "plan-unavailable")
    assert "without torch" in answer["detail"]
    assert "peelbound plan" in answer["remedy"]
