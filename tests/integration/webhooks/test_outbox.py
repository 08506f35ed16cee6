"""Messages from the transaction in which an audit ends to the receiver, whatever happens on the way."""

import json
from contextlib import suppress
from datetime import timedelta

import pytest
from standardwebhooks import Webhook as Standard
from standardwebhooks import WebhookVerificationError

from peelbound.service.database.engine import writing
from peelbound.service.database.errors import WebhookDisabled
from peelbound.service.database.outbox import MOST_FAILURES, backoff, oldest_due_seconds
from peelbound.service.database.tables import AuditRow
from peelbound.service.database.transitions import advance
from peelbound.service.schemas.record import AuditState
from peelbound.service.schemas.webhook import DeliveryState, DisabledBecause, WebhookChange
from tests.integration.database.harness import PROBLEM, at_once
from tests.integration.webhooks.conftest import TENANT, Hooks, end

ENDS = [
    "succeeded",
    "failed",
    "failed after retries",
    "failed as its controllers were lost",
    "cancelled",
    "cancelled while queued",
    "cancelled as its controller was lost",
]


@pytest.mark.parametrize("how", ENDS)
def test_every_end_of_an_audit_is_told_once_signed_and_without_secrets(hooks: Hooks, how: str) -> None:
    webhook = hooks.hook()
    audit_id = end(hooks, how)
    assert hooks.deliver_all() == 1
    (got,) = hooks.receiver.received
    if "lost" not in how:  # those push the clock further than the library lets a message be old
        Standard(webhook.secret).verify(got.body, got.headers)
    message = json.loads(got.body)
    state = how.split()[0]
    assert message["type"] == f"audit.{state}"
    assert message["timestamp"] == message["data"]["ended_at"]
    assert message["data"] | {"timestamp": 0} == {
        "timestamp": 0,
        "id": audit_id,
        "state": state,
        "attempt": message["data"]["attempt"],
        "created_at": message["data"]["created_at"],
        "ended_at": message["data"]["ended_at"],
        "run": "r",
        "step": 7,
        "verdict": {
            "status": "holds",
            "headline": "holds",
            "inert_blocks": [],
            "lagging_blocks": [],
            "untrained_blocks": [],
        }
        if state == "succeeded"
        else None,
        "problem": message["data"]["problem"],
        "links": message["data"]["links"],
    }
    assert (message["data"]["problem"] is not None) == (state == "failed")
    assert b"secret-bucket" not in got.body
    assert PROBLEM.detail.encode() not in got.body
    delivery = hooks.only(webhook)
    assert (delivery.id, delivery.audit_id, delivery.state) == (got.headers["webhook-id"], audit_id, "delivered")
    assert [(a.number, a.status, a.error) for a in delivery.attempts] == [(1, 204, None)]
    assert delivery.body.encode() == got.body


def test_a_transition_that_is_not_committed_tells_nothing(hooks: Hooks) -> None:
    webhook = hooks.hook()
    audit_id = hooks.service.submit()
    guard = AuditRow.tenant == TENANT, AuditRow.id == audit_id
    with suppress(RuntimeError), writing(hooks.engine) as connection:
        assert advance(connection, guard, hooks.service.clock(connection), AuditState.CANCELLED, 0)
        raise RuntimeError("the process dies here")
    assert hooks.deliveries(webhook) == []
    assert hooks.service.audits.get(TENANT, audit_id).state is AuditState.QUEUED


def test_an_endpoint_hears_of_what_it_asked_for_and_of_its_own_tenant(hooks: Hooks) -> None:
    failures = hooks.hook(events=["audit.failed"])
    everything = hooks.hook()
    other = hooks.hook("other")
    end(hooks, "succeeded")
    end(hooks, "failed")
    assert [d.type for d in hooks.deliveries(failures)] == ["audit.failed"]
    assert [d.type for d in hooks.deliveries(everything)] == ["audit.failed", "audit.succeeded"]
    assert hooks.deliveries(other, "other") == []


def test_failures_are_tried_again_for_a_day_ever_more_slowly_under_one_id(hooks: Hooks) -> None:
    webhook = hooks.hook()
    hooks.receiver.answers = [500]
    end(hooks, "succeeded")
    waits = []
    while hooks.only(webhook).state is DeliveryState.PENDING:
        assert hooks.deliver_all() == 1
        delivery = hooks.only(webhook)
        if delivery.next_attempt_at is not None:
            assert hooks.deliver_all() == 0
            waits.append((delivery.next_attempt_at - delivery.attempts[-1].at).total_seconds())
            hooks.service.clock.push(waits[-1])
    assert hooks.only(webhook).state is DeliveryState.FAILED
    assert len(hooks.receiver.received) == MOST_FAILURES == len(hooks.only(webhook).attempts)
    # A wait is counted from the answer on, which came a little after the attempt began.
    assert [min(5 * 3**n, 4 * 3600) <= wait for n, wait in enumerate(waits)] == [True] * (MOST_FAILURES - 1)
    assert 24 * 3600 <= sum(waits) <= 26 * 3600
    assert len({got.headers["webhook-id"] for got in hooks.receiver.received}) == 1
    assert len({got.headers["webhook-timestamp"] for got in hooks.receiver.received}) == MOST_FAILURES
    assert hooks.deliver_all() == 0


def test_the_age_of_what_is_due_is_told(hooks: Hooks) -> None:
    def age() -> float:
        return oldest_due_seconds(hooks.engine, hooks.service.clock)

    hooks.hook()
    assert age() == 0
    end(hooks, "succeeded")
    hooks.service.clock.push(90)
    assert 90 <= age() < 120
    hooks.receiver.answers = [500]
    hooks.deliver_all()
    assert age() == 0


def test_backoffs_differ_by_chance() -> None:
    assert backoff(1, 0.0) == pytest.approx(4)
    assert backoff(1, 0.999999) == pytest.approx(6, abs=1e-3)
    assert backoff(10_000, 0.5) == 4 * 3600


def test_a_receiver_that_recovers_gets_the_message(hooks: Hooks) -> None:
    webhook = hooks.hook()
    hooks.receiver.answers = [503, 302, 200]
    end(hooks, "failed")
    for _ in range(3):
        hooks.deliver_all()
        hooks.service.clock.push(3600)
    delivery = hooks.only(webhook)
    assert delivery.state is DeliveryState.DELIVERED
    assert [attempt.status for attempt in delivery.attempts] == [503, 302, 200]
    assert delivery.next_attempt_at is None


@pytest.mark.parametrize("status", [429, 503])
def test_a_receiver_that_asks_for_patience_gets_it(hooks: Hooks, status: int) -> None:
    webhook = hooks.hook()
    hooks.receiver.answers, hooks.receiver.retry_after = [status, 200], "600"
    end(hooks, "succeeded")
    hooks.deliver_all()
    waiting = hooks.only(webhook)
    assert waiting.next_attempt_at is not None
    assert 600 <= (waiting.next_attempt_at - waiting.attempts[-1].at).total_seconds() < 610
    hooks.service.clock.push(590)
    assert hooks.deliver_all() == 0
    hooks.service.clock.push(20)
    assert hooks.deliver_all() == 1
    assert hooks.only(webhook).state is DeliveryState.DELIVERED


def test_a_receiver_that_asks_for_a_week_is_given_up_after_a_day(hooks: Hooks) -> None:
    webhook = hooks.hook()
    hooks.receiver.answers, hooks.receiver.retry_after = [503], str(7 * 24 * 3600)
    end(hooks, "failed")
    hooks.deliver_all()
    hooks.service.clock.push(25 * 3600)
    hooks.deliver_all()
    delivery = hooks.only(webhook)
    assert delivery.state is DeliveryState.FAILED
    assert [attempt.status for attempt in delivery.attempts] == [503, 503]


def test_410_gone_disables_the_endpoint_and_ends_what_waits(hooks: Hooks) -> None:
    webhook = hooks.hook()
    hooks.receiver.answers = [410]
    end(hooks, "succeeded")
    end(hooks, "failed")
    assert hooks.deliver_all() == 1
    disabled = hooks.webhooks.get(TENANT, webhook.id)
    assert disabled.disabled_because is DisabledBecause.GONE
    assert {d.state for d in hooks.deliveries(webhook)} == {DeliveryState.FAILED}
    end(hooks, "succeeded")
    assert len(hooks.deliveries(webhook)) == 2
    with pytest.raises(WebhookDisabled):
        hooks.webhooks.test(TENANT, webhook.id)
    with pytest.raises(WebhookDisabled):
        hooks.webhooks.redeliver(TENANT, webhook.id, hooks.deliveries(webhook)[0].id)
    hooks.receiver.answers = [200]
    hooks.webhooks.change(TENANT, webhook.id, WebhookChange(enabled=True), None)
    hooks.webhooks.redeliver(TENANT, webhook.id, hooks.deliveries(webhook)[0].id)
    assert hooks.deliver_all() == 1
    assert hooks.deliveries(webhook)[0].state is DeliveryState.DELIVERED


def test_an_endpoint_that_is_disabled_by_request_gets_nothing_that_waited(hooks: Hooks) -> None:
    webhook = hooks.hook()
    end(hooks, "succeeded")
    hooks.webhooks.change(TENANT, webhook.id, WebhookChange(enabled=False), None)
    assert hooks.deliver_all() == 0
    assert hooks.only(webhook).state is DeliveryState.FAILED
    assert hooks.receiver.received == []


def test_rotated_secrets_both_sign_until_the_overlap_ends(hooks: Hooks) -> None:
    webhook = hooks.hook()
    new = hooks.webhooks.rotate(TENANT, webhook.id, timedelta(seconds=100))
    assert new.secret != webhook.secret
    hooks.webhooks.test(TENANT, webhook.id)
    hooks.deliver_all()
    got = hooks.receiver.received[-1]
    for secret in (webhook.secret, new.secret):
        assert Standard(secret).verify(got.body, got.headers)["type"] == "webhook.test"
    hooks.service.clock.push(101)
    hooks.webhooks.test(TENANT, webhook.id)
    hooks.deliver_all()
    got = hooks.receiver.received[-1]
    Standard(new.secret).verify(got.body, got.headers)
    with pytest.raises(WebhookVerificationError):
        Standard(webhook.secret).verify(got.body, got.headers)
    at_last = hooks.webhooks.rotate(TENANT, webhook.id, timedelta())
    assert at_last.previous_secret_until is None


def test_a_changed_body_or_id_does_not_verify(hooks: Hooks) -> None:
    webhook = hooks.hook()
    hooks.webhooks.test(TENANT, webhook.id)
    hooks.deliver_all()
    got = hooks.receiver.received[-1]
    for body, headers in ((got.body + b" ", got.headers), (got.body, got.headers | {"webhook-id": "other"})):
        with pytest.raises(WebhookVerificationError):
            Standard(webhook.secret).verify(body, headers)


def test_a_redelivery_repeats_the_message_under_its_id(hooks: Hooks) -> None:
    webhook = hooks.hook()
    end(hooks, "succeeded")
    hooks.deliver_all()
    again = hooks.webhooks.redeliver(TENANT, webhook.id, hooks.only(webhook).id)
    assert again.state is DeliveryState.PENDING
    hooks.deliver_all()
    first, second = hooks.receiver.received
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    assert [attempt.number for attempt in hooks.only(webhook).attempts] == [1, 2]


def test_a_redelivery_of_one_that_is_being_sent_changes_nothing(hooks: Hooks) -> None:
    webhook = hooks.hook()
    end(hooks, "succeeded")
    parcel = hooks.outbox.claim("one")
    assert parcel is not None
    hooks.webhooks.redeliver(TENANT, webhook.id, parcel.id)
    assert hooks.outbox.claim("two") is None
    assert hooks.outbox.settle(parcel, 200, None, 0.1)
    assert hooks.only(webhook).state is DeliveryState.DELIVERED


def test_deleting_an_endpoint_deletes_its_deliveries_and_their_log(hooks: Hooks) -> None:
    kept, gone = hooks.hook(), hooks.hook()
    end(hooks, "succeeded")
    parcels = [hooks.outbox.claim(name) for name in ("one", "two")]
    held = {parcel.webhook_id: parcel for parcel in parcels if parcel is not None}
    hooks.webhooks.delete(TENANT, gone.id)
    assert not hooks.outbox.settle(held[gone.id], 200, None, 0.1)
    assert hooks.outbox.settle(held[kept.id], 200, None, 0.1)
    assert hooks.only(kept).state is DeliveryState.DELIVERED


def test_a_deleted_audit_takes_along_what_was_told_of_it(hooks: Hooks) -> None:
    webhook = hooks.hook()
    told = end(hooks, "succeeded")
    hooks.deliver_all()
    kept = end(hooks, "succeeded")
    hooks.deliver_all()
    hooks.service.audits.delete(TENANT, told)
    assert [delivery.audit_id for delivery in hooks.deliveries(webhook)] == [kept]


@pytest.mark.parametrize("last", [200, 410])
def test_the_end_of_an_audit_that_is_deleted_at_once_is_told_still_and_then_forgotten(hooks: Hooks, last: int) -> None:
    webhook = hooks.hook()
    hooks.receiver.answers = [500, last]
    audit_id = end(hooks, "succeeded")
    hooks.deliver_all()
    hooks.service.audits.delete(TENANT, audit_id)
    waiting = hooks.only(webhook)
    assert (waiting.audit_id, waiting.state) == (None, DeliveryState.PENDING)
    assert hooks.outbox.forget() == 0
    hooks.service.clock.push(60)
    assert hooks.deliver_all() == 1
    assert json.loads(hooks.receiver.received[-1].body)["data"]["id"] == audit_id
    assert len(hooks.only(webhook).attempts) == 2
    assert hooks.outbox.forget() == 1
    assert hooks.deliveries(webhook) == []


def test_a_message_that_is_being_sent_as_its_audit_is_deleted_is_settled_as_any(hooks: Hooks) -> None:
    webhook = hooks.hook()
    audit_id = end(hooks, "failed")
    held = hooks.outbox.claim("one")
    assert held is not None
    hooks.service.audits.delete(TENANT, audit_id)
    assert hooks.outbox.settle(held, 200, None, 0.1)
    assert hooks.only(webhook).state is DeliveryState.DELIVERED


def test_a_test_is_kept_as_long_as_any_though_it_is_of_no_audit(hooks: Hooks) -> None:
    webhook = hooks.hook()
    hooks.webhooks.test(TENANT, webhook.id)
    hooks.deliver_all()
    assert hooks.outbox.forget() == 0
    assert hooks.only(webhook).type == "webhook.test"


def test_an_endpoint_that_is_deleted_while_an_audit_ends_does_not_fail_the_end(hooks: Hooks) -> None:
    for _ in range(5):
        webhook = hooks.hook()
        audit_id = hooks.service.submit()
        at_once(
            lambda webhook=webhook: hooks.webhooks.delete(TENANT, webhook.id),
            lambda audit_id=audit_id: hooks.service.audits.cancel(TENANT, audit_id),
        )
        assert hooks.service.audits.get(TENANT, audit_id).state is AuditState.CANCELLED
    assert hooks.deliver_all() == 0


def test_what_ended_long_ago_is_forgotten_and_what_waits_is_not(hooks: Hooks) -> None:
    webhook = hooks.hook()
    end(hooks, "succeeded")
    hooks.deliver_all()
    hooks.service.clock.push(40 * 24 * 3600)
    end(hooks, "failed")
    assert hooks.outbox.forget() == 1
    assert [delivery.type for delivery in hooks.deliveries(webhook)] == ["audit.failed"]
    assert hooks.deliver_all() == 1


def test_pages_of_deliveries_are_cut_by_their_ids(hooks: Hooks) -> None:
    webhook = hooks.hook()
    for _ in range(5):
        hooks.webhooks.test(TENANT, webhook.id)
    whole = [delivery.id for delivery in hooks.deliveries(webhook)]
    seen, cursor = [], None
    while True:
        page = hooks.webhooks.deliveries(TENANT, webhook.id, cursor=cursor, limit=2)
        seen += [delivery.id for delivery in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == whole == sorted(whole, reverse=True)
    assert hooks.webhooks.deliveries(TENANT, webhook.id, state=DeliveryState.DELIVERED).items == []
