"""The methods of HTTP: a server may let any word through, and what strangers make up must name no series or span."""

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
OTHER = "_OTHER"
"""As OpenTelemetry's conventions call the rest."""


def known(method: str) -> str:
    """The method, or `OTHER`."""
    return method if method in METHODS else OTHER
