"""The action log: who did what, as far as it changed something."""

from pydantic import Field

from peelbound.service.schemas.base import UtcTime, WireModel


class LogEntry(WireModel):
    """One change that somebody made."""

    id: str
    """Sortable by time (ULID)."""
    at: UtcTime
    tenant: str
    actor: str = Field(examples=["tok_4f1c09a2b7d35e68", "oidc:alice", "cli"])
    """The token's id, the subject that the identity provider named, or `cli` for a command on the database."""
    actor_name: str
    """The token's name, or who called the command."""
    action: str = Field(examples=["audit.submit"])
    target: str
    """What was changed: an audit's id, a token's or an endpoint's name or id."""
    request_id: str
    """The `X-Request-Id` of the request."""


class LogPage(WireModel):
    """`GET /v1/log`: a page of the tenant's log, newest first."""

    items: list[LogEntry]
    next_cursor: str | None = None
