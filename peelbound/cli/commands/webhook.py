"""`peelbound webhook`."""

from typing import TypeVar

import click
from pydantic import ValidationError

from peelbound.cli.failures import reporting
from peelbound.cli.output import json_option, print_columns, print_json, said
from peelbound.client import Client
from peelbound.service.schemas.base import WireModel
from peelbound.service.schemas.webhook import (
    Delivery,
    DeliveryPage,
    DeliveryState,
    Webhook,
    WebhookChange,
    WebhookEvent,
    WebhookPage,
    WebhookRequest,
    WebhookWithSecret,
)

M = TypeVar("M", bound=WireModel)

event_option = click.option(
    "--event",
    "events",
    multiple=True,
    type=click.Choice([event.value for event in WebhookEvent]),
    help="Which ends to tell of; may be given several times.",
)


@click.group("webhook")
def command() -> None:
    """Make and manage endpoints that are told when audits end."""


@command.command("create")
@click.argument("url")
@event_option
@click.option("--description", default="", help="What the endpoint is for.")
@json_option
@reporting
def create(url: str, events: tuple[str, ...], description: str, as_json: bool) -> None:
    """Have the ends of audits posted to URL (all of them, unless --event says which)."""
    chosen = [WebhookEvent(event) for event in events] or list(WebhookEvent)
    request = _checked(WebhookRequest, url=url, events=chosen, description=description)
    with Client() as client:
        made = client.create_webhook(request)
    _print_secret(made, as_json)


@command.command("list")
@json_option
@reporting
def listing(as_json: bool) -> None:
    """List endpoints, without their secrets."""
    with Client() as client:
        found = client.webhooks()
    if as_json:
        print_json(WebhookPage(items=found))
    else:
        print_columns(("id", "state", "url", "events", "description"), [_row(webhook) for webhook in found])


@command.command("update")
@click.argument("webhook_id")
@click.option("--url", help="Post there instead.")
@event_option
@click.option("--description", help="What the endpoint is for.")
@click.option("--enable/--disable", "enabled", default=None, help="Send messages again, or no more.")
@json_option
@reporting
def update(
    webhook_id: str,
    url: str | None,
    events: tuple[str, ...],
    description: str | None,
    enabled: bool | None,
    as_json: bool,
) -> None:
    """Change an endpoint; what is not given stays."""
    chosen = [WebhookEvent(event) for event in events] or None
    change = _checked(WebhookChange, url=url, events=chosen, description=description, enabled=enabled)
    with Client() as client:
        webhook = client.update_webhook(webhook_id, change)
    if as_json:
        print_json(webhook)
    else:
        print_columns(("id", "state", "url", "events", "description"), [_row(webhook)])


@command.command("rotate")
@click.argument("webhook_id")
@click.option(
    "--overlap-hours", type=click.IntRange(0, 168), default=24, show_default=True, help="How long both secrets sign."
)
@json_option
@reporting
def rotate(webhook_id: str, overlap_hours: int, as_json: bool) -> None:
    """Give an endpoint a new secret, printed this once."""
    with Client() as client:
        webhook = client.rotate_webhook(webhook_id, overlap_seconds=3600 * overlap_hours)
    _print_secret(webhook, as_json)


@command.command("delete")
@click.argument("webhook_id")
@reporting
def delete(webhook_id: str) -> None:
    """Delete an endpoint with its deliveries."""
    with Client() as client:
        client.delete_webhook(webhook_id)
    click.echo(f"Deleted {webhook_id}.")


@command.command("deliveries")
@click.argument("webhook_id")
@click.option("--state", type=click.Choice([state.value for state in DeliveryState]), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="At most so many.")
@json_option
@reporting
def deliveries(webhook_id: str, state: str | None, limit: int, as_json: bool) -> None:
    """List what was sent to an endpoint, newest first."""
    with Client() as client:
        page = client.deliveries(webhook_id, state=None if state is None else DeliveryState(state), limit=limit)
    _print_deliveries(page, as_json)


@command.command("redeliver")
@click.argument("webhook_id")
@click.argument("delivery_id")
@json_option
@reporting
def redeliver(webhook_id: str, delivery_id: str, as_json: bool) -> None:
    """Send a message again."""
    with Client() as client:
        delivery = client.redeliver(webhook_id, delivery_id)
    _print_delivery(delivery, as_json)


@command.command("test")
@click.argument("webhook_id")
@json_option
@reporting
def test(webhook_id: str, as_json: bool) -> None:
    """Send an endpoint a message of the type webhook.test."""
    with Client() as client:
        delivery = client.test_webhook(webhook_id)
    _print_delivery(delivery, as_json)


def _checked(kind: type[M], **fields: object) -> M:
    """What the options say.

    Raises:
        click.UsageError: it cannot be.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        raise click.UsageError(said(error)) from None


def _print_secret(webhook: WebhookWithSecret, as_json: bool) -> None:
    if as_json:
        print_json(webhook)
        return
    print_columns(("id", "secret"), [(webhook.id, webhook.secret)])
    click.echo("The secret verifies signatures and is not shown again.", err=True)


def _row(webhook: Webhook) -> tuple[str, ...]:
    state = "enabled" if webhook.disabled_at is None else f"disabled ({webhook.disabled_because})"
    return webhook.id, state, webhook.url, " ".join(webhook.events), webhook.description


def _print_delivery(delivery: Delivery, as_json: bool) -> None:
    if as_json:
        print_json(delivery)
    else:
        click.echo(f"{delivery.id} is to be sent; peelbound webhook deliveries says what becomes of it.")


def _print_deliveries(page: DeliveryPage, as_json: bool) -> None:
    if as_json:
        print_json(page)
        return
    rows = []
    for delivery in page.items:
        last = delivery.attempts[-1] if delivery.attempts else None
        outcome = "" if last is None else last.error or f"status {last.status}"
        waits = "" if delivery.next_attempt_at is None else f"{delivery.next_attempt_at:%Y-%m-%d %H:%M:%S}"
        rows.append(
            (
                delivery.id,
                delivery.type,
                delivery.audit_id or "",
                delivery.state,
                str(len(delivery.attempts)),
                waits,
                outcome,
            )
        )
    print_columns(("id", "type", "audit", "state", "attempts", "next (UTC)", "last attempt"), rows)
