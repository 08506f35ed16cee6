"""What the database package refuses, and what may pass when tried again."""

from peelbound.workers.errors import InfrastructureError, UserError


class AuditNotFound(UserError):
    """No audit with this id belongs to the tenant."""

    slug = "audit-not-found"
    title = "No such audit"


class RunNotFound(UserError):
    """No audit of the tenant names this run."""

    slug = "run-not-found"
    title = "No such run"


class AuditUnreadable(InfrastructureError):
    """A later version wrote something into the audit that this one does not know."""

    slug = "audit-unreadable"
    title = "The audit cannot be read by this version"


class AuditEnded(UserError):
    """The audit has ended and will never change again."""

    slug = "audit-ended"
    title = "The audit has ended"


class AuditNotEnded(UserError):
    """The audit is still queued or at work."""

    slug = "audit-not-ended"
    title = "The audit has not ended"


class IdempotencyConflict(UserError):
    """The idempotency key was used before with another request."""

    slug = "idempotency-conflict"
    title = "The idempotency key belongs to another request"


class CursorInvalid(UserError):
    """The cursor was not made by this service."""

    slug = "cursor-invalid"
    title = "The cursor is not valid"


class TokenInvalid(UserError):
    """A token cannot be made as asked: its name is taken, or a scope is unknown."""

    slug = "token-invalid"
    title = "The token cannot be made"


class TokenExpired(UserError):
    """The token was valid and is no longer."""

    slug = "token-expired"
    title = "The token has expired"


class TenantActiveLimit(UserError):
    """The tenant has as many audits waiting and running as it may."""

    slug = "tenant-active-limit"
    title = "Too many audits wait or run"


class TenantStorageLimit(UserError):
    """The tenant stores as many bytes as it may."""

    slug = "tenant-storage-limit"
    title = "The tenant's storage is used up"


class WebhookNotFound(UserError):
    """No webhook with this id belongs to the tenant."""

    slug = "webhook-not-found"
    title = "No such webhook"


class DeliveryNotFound(UserError):
    """The webhook has no delivery with this id."""

    slug = "delivery-not-found"
    title = "No such delivery"


class WebhookDisabled(UserError):
    """The webhook gets no messages until it is enabled."""

    slug = "webhook-disabled"
    title = "The webhook is disabled"


class WebhookLimit(UserError):
    """The tenant has as many webhooks as it may."""

    slug = "webhook-limit"
    title = "Too many webhooks"


class ValueRefused(UserError):
    """A value that the database cannot hold or compare, such as text with a NUL character."""

    slug = "value-refused"
    title = "A value cannot be stored"


class DatabaseUrlInvalid(UserError):
    """The database URL cannot be parsed, or names a database or driver that Peelbound does not run on."""

    slug = "database-url-invalid"
    title = "The database URL is not valid"


class SchemaTooOld(UserError):
    """The database's schema is older than the code, or there is none."""

    slug = "schema-too-old"
    title = "The database must be migrated"


class SchemaTooNew(UserError):
    """The database was migrated by a newer version."""

    slug = "schema-too-new"
    title = "The database is a newer version's"


class DatabaseUnavailable(InfrastructureError):
    """The database did not answer, was busy for too long, or broke off, maybe during COMMIT."""

    slug = "database-unavailable"
    title = "The database is not available"
