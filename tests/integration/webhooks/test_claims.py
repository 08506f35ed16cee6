"""Which message is sent next, by whom: none by two, no endpoint twice at once, and no tenant starves."""

from peelbound.service.schemas.webhook import DeliveryState
from tests.integration.database.harness import at_once
from tests.integration.webhooks.conftest import LEASE_SECONDS, TENANT, Hooks, end


def test_no_message_is_taken_by_two(hooks: Hooks) -> None:
    for _ in range(4):
        hooks.hook()
    end(hooks, "succeeded")
    taken = at_once(*[lambda name=f"deliverer {n}": hooks.outbox.claim(name) for n in range(8)])
    ids = [parcel.id for parcel in taken if parcel is not None]
    assert len(ids) == len(set(ids)) == 4


def test_a_slow_endpoint_is_sent_one_message_at_a_time_and_holds_up_no_other(hooks: Hooks) -> None:
    slow = hooks.hook()
    end(hooks, "succeeded")
    end(hooks, "failed")
    first = hooks.outbox.claim("one")
    assert first is not None
    assert hooks.outbox.claim("two") is None
    other = hooks.hook("other")
    end(hooks, "succeeded", "other")
    second = hooks.outbox.claim("two")
    assert second is not None
    assert (first.webhook_id, second.webhook_id) == (slow.id, other.id)
    hooks.outbox.settle(first, 200, None, 0.1)
    third = hooks.outbox.claim("two")
    assert third is not None
    assert third.webhook_id == slow.id


def test_a_tenant_whose_endpoints_never_answer_does_not_starve_others(hooks: Hooks) -> None:
    for _ in range(6):
        hooks.hook()
    hooks.hook("other")
    hooks.hook("third")
    end(hooks, "succeeded")
    end(hooks, "succeeded")

    def turns(number: int) -> list[str]:
        return [parcel.tenant for _ in range(number) if (parcel := hooks.outbox.claim("slow")) is not None]

    assert turns(2) == [TENANT, TENANT]  # nobody else wants the deliverers
    hooks.service.clock.push(1)
    end(hooks, "succeeded", "other")
    end(hooks, "succeeded", "other")  # its one endpoint is sent one at a time
    end(hooks, "succeeded", "third")
    assert turns(7) == ["other", "third", TENANT, TENANT, TENANT, TENANT]
    hooks.service.clock.push(LEASE_SECONDS)  # all leases have run out, and nobody has anything in hand
    assert turns(4) == [TENANT, "other", "third", TENANT]


def test_claims_at_once_see_each_other(hooks: Hooks) -> None:
    for tenant in ("a", "b", "c", "d"):
        for _ in range(2):
            hooks.hook(tenant)
        end(hooks, "succeeded", tenant)
        end(hooks, "succeeded", tenant)
        hooks.service.clock.push(1)  # by age alone, all of the first tenant's would go first
    taken = at_once(*[lambda: hooks.outbox.claim("someone") for _ in range(4)])
    assert sorted(parcel.tenant for parcel in taken if parcel is not None) == ["a", "b", "c", "d"]
    rest = at_once(*[lambda: hooks.outbox.claim("someone") for _ in range(8)])
    endpoints = [(p.tenant, p.webhook_id) for p in [*taken, *rest] if p is not None]
    assert len(endpoints) == len(set(endpoints)) == 8  # one message at a time for each


def test_a_message_whose_deliverer_died_is_sent_by_another_and_the_dead_ones_word_does_not_count(hooks: Hooks) -> None:
    webhook = hooks.hook()
    end(hooks, "succeeded")
    dead = hooks.outbox.claim("dead")
    assert dead is not None
    assert hooks.deliver_all() == 0
    hooks.service.clock.push(LEASE_SECONDS + 1)
    assert hooks.deliver_all() == 1
    assert not hooks.outbox.settle(dead, 500, "too late", 1.0)
    delivery = hooks.only(webhook)
    assert delivery.state is DeliveryState.DELIVERED
    assert [(a.number, a.status) for a in delivery.attempts] == [(1, None), (2, 204)]
    assert "ended before" in str(delivery.attempts[0].error)
    assert hooks.receiver.received[0].headers["webhook-id"] == dead.id
