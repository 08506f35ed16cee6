"""What only the extra `server` brings."""

from collections.abc import Iterable
from importlib.util import find_spec

_NEEDED = ("fastapi", "uvicorn", "sqlalchemy", "pydantic_settings", "ray", "torch", "transformers")


class ServerExtraMissing(Exception):
    """The packages that run a service are not installed."""


def require_server_extra(needed: Iterable[str] = _NEEDED) -> None:
    """Raise `ServerExtraMissing` unless a service can be run here; imports nothing."""
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ServerExtraMissing(
            f"Running audits on this machine needs {', '.join(missing)}: pip install 'peelbound[server]'. "
            "To use a service that runs elsewhere, set PEELBOUND_URL and PEELBOUND_TOKEN."
        )
