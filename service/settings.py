"""Settings of a Peelbound service: environment variables `PEELBOUND_*`, the same for API and controller."""

import json
from pathlib import Path

from platformdirs import user_state_path
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """One service's settings. Every field is an environment variable with the prefix `PEELBOUND_`; lists are JSON."""

    model_config = SettingsConfigDict(env_prefix="PEELBOUND_", use_attribute_docstrings=True, extra="ignore")

    state_dir: Path = Field(default_factory=lambda: user_state_path("peelbound"))
    """Where the embedded service keeps its database, objects and token."""
    database_url: str = ""
    """SQLAlchemy URL, `sqlite:///…` or `postgresql+psycopg://…`; empty: `peelbound.db` in the state directory."""
    store_url: str = ""
    """`file:///directory` or `s3://bucket/prefix`; empty: `objects` in the state directory."""
    s3_endpoint_url: str | None = None
    """Endpoint of an S3 server that is not AWS; for the store and for `s3://` checkpoints."""
    s3_region: str | None = None
    s3_access_key_id: SecretStr | None = None
    """None: boto3's own chain (environment, profile, instance role)."""
    s3_secret_access_key: SecretStr | None = None
    allow: list[str] = Field(default_factory=list)
    """URI prefixes that checkpoints and calibration data may be read from, e.g. `["file:///data", "s3://models/"]`."""
    host: str = "127.0.0.1"
    port: int = Field(default=8734, ge=0, le=65535)
    allowed_hosts: list[str] = Field(default_factory=lambda: ["127.0.0.1", "localhost", "[::1]"])
    """Values of the `Host` header (without port) that are answered."""
    allowed_origins: list[str] = Field(default_factory=list)
    """Further values of the `Origin` header that are answered; the service's own origin always is."""
    workers: int = Field(default=2, ge=1, le=4096)
    """Ray actors that solve; each takes one CPU thread (or `worker_gpus` of a GPU)."""
    worker_gpus: float = Field(default=0.0, ge=0)
    ray_address: str | None = None
    """None: a Ray of our own on this machine, bound to loopback."""
    ray_object_store_bytes: int = Field(default=1 << 30, ge=80 << 20)
    """Memory of the local Ray's object store; beyond it states are spilled to disk."""
    lease_seconds: float = Field(default=30.0, gt=0)
    """A controller that has not sent a heartbeat for this long loses its audit."""
    poll_seconds: float = Field(default=0.5, gt=0)
    """How often an idle controller looks for work."""
    max_attempts: int = Field(default=3, ge=1)
    """Attempts after infrastructure failures before an audit is `failed`."""
    retry_seconds: float = Field(default=5.0, ge=0)
    """Base of the exponential backoff between attempts."""
    max_calibration_bytes: int = Field(default=1 << 30, ge=1)
    """Bound on the calibration files of one audit, together."""
    max_request_bytes: int = Field(default=64 << 20, ge=1024)

    @property
    def resolved_database_url(self) -> str:
        """The database's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.state_dir / 'peelbound.db'}"

    @property
    def resolved_store_url(self) -> str:
        """The object store's URL."""
        return self.store_url or (self.state_dir / "objects").as_uri()

    def environment(self) -> dict[str, str]:
        """The variables that show these settings to a child process; None is left out, which means the default."""
        variables = {}
        for name, value in self:
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if value is not None:
                variables[f"PEELBOUND_{name.upper()}"] = json.dumps(value) if isinstance(value, list) else str(value)
        return variables
