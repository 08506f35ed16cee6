"""Random orders of everything that users, controllers and time can do, against a model of what must then be true."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from peelbound.service.database.engine import make_engine
from peelbound.service.database.errors import AuditEnded, AuditNotEnded
from peelbound.service.database.leases import Claim, Lease
from peelbound.service.database.schema import migrate
from peelbound.service.schemas.record import AuditState
from tests.integration.database.harness import LEASE_SECONDS, MAX_ATTEMPTS, PROBLEM, SUMMARY, Service, some_progress

Q, R, C = AuditState.QUEUED, AuditState.RUNNING, AuditState.CANCELLING


@dataclass
class Expected:
    """What must be true of one audit."""

    state: AuditState = Q
    attempt: int = 0
    failures: int = 0
    events: int = 1
    due: float = 0.0
    """Seconds of pushed time from when it may be claimed."""
    manifest: str | None = None

    def becomes(self, state: AuditState, due: float = 0.0) -> None:
        self.state = state
        self.due = due
        self.events += 1


class Queue(RuleBasedStateMachine):
    """Steps of pushed time are whole leases apart, so the milliseconds that the test takes decide nothing."""

    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="peelbound-queue-"))
        engine = make_engine(f"sqlite:///{self.directory / 'a.db'}")
        migrate(engine)
        self.service = Service(engine)
        self.expected: dict[str, Expected] = {}
        self.now = 0.0

    def teardown(self) -> None:
        self.service.engine.dispose()
        shutil.rmtree(self.directory)

    def held(self, claim: Claim) -> Expected | None:
        """The audit's model if the claim still holds it."""
        model = self.expected.get(claim.audit_id)
        return model if model and model.attempt == claim.attempt and model.state in (R, C) else None

    @rule()
    def submit(self) -> None:
        self.expected[self.service.submit()] = Expected(due=self.now)

    @rule(leases=st.sampled_from([0.5, 1.5]))
    def time_passes(self, leases: float) -> None:
        self.service.clock.push(leases * LEASE_SECONDS)
        self.now += leases * LEASE_SECONDS

    @rule(target=claims, owner=st.sampled_from(["one", "two"]))
    def claim(self, owner: str) -> object:
        claim = self.service.leases.claim(owner)
        for audit, model in sorted(self.expected.items()):
            if model.state.ended or model.due > self.now:
                continue
            if model.state is C:
                model.becomes(AuditState.CANCELLED)
                continue
            if model.state is R:
                model.failures += 1
                if model.failures >= MAX_ATTEMPTS:
                    model.becomes(AuditState.FAILED)
                    continue
            model.becomes(R, due=self.now + LEASE_SECONDS)
            model.attempt += 1
            assert claim is not None
            assert (claim.audit_id, claim.attempt, claim.owner) == (audit, model.attempt, owner)
            return claim
        assert claim is None
        return multiple()

    @rule(claim=claims)
    def heartbeat(self, claim: Claim) -> None:
        model = self.held(claim)
        lease = self.service.leases.heartbeat(claim)
        assert lease is (Lease.LOST if model is None else Lease.CANCELLING if model.state is C else Lease.HELD)
        if model:
            model.due = self.now + LEASE_SECONDS

    @rule(claim=claims)
    def progress(self, claim: Claim) -> None:
        model = self.held(claim)
        assert self.service.leases.progress(claim, some_progress()) is (model is not None)
        if model:
            model.events += 1

    @rule(claim=claims)
    def succeed(self, claim: Claim) -> None:
        model = self.held(claim)
        manifest = f"{claim.audit_id}/{claim.attempt}"
        published = self.service.leases.succeed(claim, manifest, SUMMARY)
        if model and model.state is R:
            model.becomes(AuditState.SUCCEEDED)
            model.manifest = manifest
        elif model:
            model.becomes(AuditState.CANCELLED)
        known = self.expected.get(claim.audit_id)
        assert published is (known is not None and known.manifest == manifest)

    @rule(claim=claims)
    def fail(self, claim: Claim) -> None:
        model = self.held(claim)
        assert self.service.leases.fail(claim, PROBLEM) is (model is not None)
        if model:
            model.becomes(AuditState.FAILED if model.state is R else AuditState.CANCELLED)

    @rule(claim=claims, leases=st.sampled_from([0, 1]))
    def retry(self, claim: Claim, leases: int) -> None:
        model = self.held(claim)
        state = self.service.leases.retry(claim, PROBLEM, leases * LEASE_SECONDS)
        if model is None:
            assert state is None
        elif model.state is C:
            model.becomes(AuditState.CANCELLED)
        else:
            model.failures += 1
            exhausted = model.failures >= MAX_ATTEMPTS
            backoff = leases * LEASE_SECONDS * 2 ** (model.failures - 1)
            model.becomes(AuditState.FAILED if exhausted else Q, due=self.now + backoff)
        assert model is None or state is model.state

    @rule(claim=consumes(claims))
    def hand_back(self, claim: Claim) -> None:
        model = self.held(claim)
        assert self.service.leases.hand_back(claim) is (model is not None)
        if model:
            model.becomes(Q if model.state is R else AuditState.CANCELLED, due=self.now)

    @rule(claim=claims)
    def cancelled(self, claim: Claim) -> None:
        model = self.held(claim)
        stopped = model is not None and model.state is C
        assert self.service.leases.cancelled(claim) is stopped
        if model and stopped:
            model.becomes(AuditState.CANCELLED)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self.expected:
            return
        audit = data.draw(st.sampled_from(sorted(self.expected)))
        model = self.expected[audit]
        if model.state.ended:
            with pytest.raises(AuditEnded):
                self.service.audits.cancel("acme", audit)
            return
        self.service.audits.cancel("acme", audit)
        if model.state is Q:
            model.becomes(AuditState.CANCELLED)
        elif model.state is R:
            model.becomes(C, due=model.due)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if not self.expected:
            return
        audit = data.draw(st.sampled_from(sorted(self.expected)))
        if self.expected[audit].state.ended:
            assert self.service.audits.delete("acme", audit) == self.expected.pop(audit).manifest
        else:
            with pytest.raises(AuditNotEnded):
                self.service.audits.delete("acme", audit)

    @invariant()
    def everything_is_as_expected(self) -> None:
        records = {record.id: record for record in self.service.audits.page("acme", limit=1000).items}
        assert records.keys() == self.expected.keys()
        for audit, model in self.expected.items():
            record = records[audit]
            assert (record.state, record.attempt) == (model.state, model.attempt)
            assert self.service.audits.manifest_key("acme", audit) == model.manifest
            assert (record.ended_at is not None) is model.state.ended
            numbers = [event.number for event in self.service.audits.events("acme", audit)]
            assert numbers == list(range(1, model.events + 1))


TestQueue = Queue.TestCase
TestQueue.settings = settings(
    max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
