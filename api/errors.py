"""Errors that only the HTTP side can make."""

from peelbound.workers.errors import InfrastructureError, UserError


class Unauthenticated(UserError):
    """The request brings no token, or one that nobody knows."""

    slug = "unauthenticated"
    title = "A valid token is needed"


class RateLimited(UserError):
    """The token asks faster than it may."""

    slug = "rate-limited"
    title = "Too many requests"


class TenantBusy(UserError):
    """The tenant has as much under way at this replica as it may."""

    slug = "tenant-busy"
    title = "Too much is under way"


class IdentityProviderUnavailable(InfrastructureError):
    """The identity provider's keys cannot be read, and those known are too old."""

    slug = "identity-provider-unavailable"
    title = "The identity provider does not answer"


class ScopeMissing(UserError):
    """The token is known but may not do this."""

    slug = "scope-missing"
    title = "The token lacks a scope"


class LinkTokenTooPowerful(UserError):
    """A browser link carries a token that may do more than read; links end up in histories and logs."""

    slug = "link-token-too-powerful"
    title = "The link's token may do more than read"


class ReportNotAvailable(UserError):
    """The audit has no report: it has not ended, or it ended without one."""

    slug = "report-not-available"
    title = "The audit has no report"


class ArtifactNotFound(UserError):
    """The audit has no artifact of this name."""

    slug = "artifact-not-found"
    title = "No such artifact"


class ParameterInvalid(UserError):
    """A query parameter or header cannot be read."""

    slug = "parameter-invalid"
    title = "A parameter is not valid"


class PlanUnavailable(InfrastructureError):
    """The planning process did not answer in time or broke off."""

    slug = "plan-unavailable"
    title = "The plan could not be computed now"


class ReplicaEnding(InfrastructureError):
    """The replica was told to end and takes its leave."""

    slug = "replica-ending"
    title = "The replica is about to end"
