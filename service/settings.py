"""Settings of a Peelbound service: environment variables `PEELBOUND_*`, the same for API and controller."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin
from urllib.parse import urlsplit

from platformdirs import user_state_path
from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from peelbound.service.logs import LogFormat
from peelbound.service.schemas.tenant import LONGEST_KEPT_DAYS
from peelbound.service.webhooks.targets import Allowed

_LONGEST_SECONDS = LONGEST_KEPT_DAYS * 86_400.0
_HTTP = re.compile(r"https?://\S+", re.IGNORECASE)
_HOST_NAME = re.compile(r"(?:[a-z\d](?:[a-z\d-]{0,61}[a-z\d])?\.)*[a-z\d](?:[a-z\d-]{0,61}[a-z\d])?\.?", re.IGNORECASE)


def _absolute(path: Path) -> Path:
    """Processes that share settings start in different directories."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # `~name` of nobody
        raise ValueError(str(error)) from error


class _Environment(EnvSettingsSource):
    """Hands on what is no JSON as it is, so that it is refused with the name of its variable."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class Settings(BaseSettings):
    """One service's settings. Every field is an environment variable with the prefix `PEELBOUND_`; lists are JSON."""

    model_config = SettingsConfigDict(env_prefix="PEELBOUND_", use_attribute_docstrings=True, extra="ignore")

    state_dir: Annotated[Path, AfterValidator(_absolute)] = Field(default_factory=lambda: user_state_path("peelbound"))
    """Where the embedded service keeps its database, objects and token."""
    database_url: str = ""
    """SQLAlchemy URL, `sqlite:///…` or `postgresql+psycopg://…`; empty: `peelbound.db` in the state directory."""
    database_wait_seconds: float = Field(default=60.0, ge=0)
    """How long a process that starts waits for a database that does not answer, before it ends with the reason."""
    store_url: str = ""
    """`file:///directory` or `s3://bucket/prefix`; empty: `objects` in the state directory."""
    s3_endpoint_url: str | None = None
    """Endpoint of an S3 server that is not AWS, `http://host:port` or https; for the store and for `s3://`
    checkpoints."""
    s3_region: str | None = None
    """None: boto3's own chain."""
    s3_access_key_id: SecretStr | None = None
    """None: boto3's own chain (environment, profile, instance role)."""
    s3_secret_access_key: SecretStr | None = None
    """None: as above."""
    allow: list[str] = Field(default_factory=list)
    """URI prefixes that checkpoints and calibration data may be read from, e.g. `["file:///data", "s3://models/"]`."""
    tenant_allow: dict[str, list[str]] = Field(default_factory=dict)
    """The same for single tenants, e.g. `{"acme": ["s3://acme/"]}`; those not named here have `PEELBOUND_ALLOW`."""
    host: str = "127.0.0.1"
    """Where `peelbound up` and `python -m peelbound.api` listen."""
    port: int = Field(default=8734, ge=0, le=65535)
    """The same; 0 takes a free one."""
    drain_seconds: float = Field(default=5.0, ge=0)
    """How long `python -m peelbound.api` goes on answering after SIGTERM, with `/readyz` saying no, before it stops."""
    allowed_hosts: list[str] = Field(default_factory=lambda: ["127.0.0.1", "localhost", "[::1]"])
    """Values of the `Host` header (without port) that are answered."""
    allowed_origins: list[str] = Field(default_factory=list)
    """Further values of the `Origin` header that are answered, e.g. `["https://app.example.com"]`: browsers let their
    pages use the service, with a token and without cookies. The service's own origin always is."""
    requests_per_second: float = Field(default=50.0, ge=0)
    """How fast each token may ask each API replica; 0 sets no limit."""
    request_burst: int = Field(default=200, ge=1)
    """How many requests a token that was quiet may send at once."""
    tenant_active_audits: int | None = Field(default=10_000, ge=1)
    """How many audits of one tenant may wait and run."""
    tenant_running_audits: int | None = Field(default=None, ge=1)
    """How many audits of one tenant may be at work at once; further ones wait."""
    tenant_open_streams: int = Field(default=1000, ge=1)
    """How many event streams and long polls of one tenant each API replica holds open at once."""
    tenant_stored_bytes: int | None = Field(default=None, ge=1)
    """How much one tenant may keep before new audits are refused: bytes in object storage, as measured by its last
    collection, and of its audits' requests."""
    audit_keep_seconds: float | None = Field(default=None, gt=0, le=_LONGEST_SECONDS)
    """How long audits are kept after their end, unless `peelbound tenant` says otherwise, up to 36500 days; None: for
    ever."""
    result_grace_seconds: float = Field(default=86_400.0, ge=0, le=_LONGEST_SECONDS)
    """How long solved problems stay in object storage after the last audit that used them is gone, or failed."""
    collect_seconds: float = Field(default=6 * 3600.0, ge=0, le=_LONGEST_SECONDS)
    """How often each tenant's storage is collected; 0 leaves it to `peelbound gc`."""
    webhook_allow: list[str] = Field(default_factory=list)
    """Addresses, networks and host names that webhooks may reach besides public addresses, and by http too, e.g.
    `["10.1.0.0/16", "hooks.internal"]`."""
    webhook_seconds: float = Field(default=10.0, gt=0, le=60)
    """How long a webhook's receiver may take to answer."""
    oidc_issuer: str | None = None
    """Issuer (`iss`) of JWTs that are taken as tokens too; None takes none."""
    oidc_audience: str | None = None
    """The audience (`aud`) that they must be for."""
    oidc_jwks_url: str | None = None
    """Where the issuer publishes its keys; https, or http on loopback."""
    oidc_tenant_claim: str = Field(default="tenant", min_length=1)
    """The claim that names the tenant."""
    oidc_tenants: dict[str, str] = Field(default_factory=dict)
    """Values of that claim and the tenants that they stand for; empty: the value is the tenant."""
    oidc_scope_claim: str = Field(default="scope", min_length=1)
    """The claim that holds scopes, as a list or separated by spaces."""
    oidc_scopes: dict[str, Literal["read", "write", "admin"]] = {
        "peelbound:read": "read",
        "peelbound:write": "write",
        "peelbound:admin": "admin",
    }
    """Values in that claim and the scopes that they stand for; others mean nothing."""
    log_format: LogFormat = "plain"
    """How API and controller write their logs: `plain` lines or a `json` object a line."""
    traces: bool = False
    """Whether API and controller send OpenTelemetry spans to the collector that `OTEL_EXPORTER_OTLP_ENDPOINT` names;
    needs the extra `traces`."""
    controller_metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where a controller answers `GET /metrics` for Prometheus, without a token; None: nowhere."""
    controller_metrics_host: str = "127.0.0.1"
    """The address for it; beyond loopback, let the network decide who reaches it."""
    workers: int = Field(default=2, ge=1, le=4096)
    """Ray actors that solve; each takes one CPU thread (or `worker_gpus` of a GPU). On a cluster: the most that one
    audit gets."""
    cores: int | None = Field(default=None, ge=1)
    """CPU cores that the workers of a Ray of our own have together: no more workers than that are started, whatever
    `workers` says. None: those that the controller may run on."""
    worker_gpus: float = Field(default=0.0, ge=0)
    """GPUs of each worker; a fraction shares one."""
    ray_address: str | None = None
    """`host:port` of a Ray cluster of which this machine is a node; None: a Ray of our own on this machine, bound to
    loopback."""
    cluster_workers: int | None = Field(default=None, ge=1)
    """How many workers the cluster has room for once it has grown as far as it may; None: as many as now."""
    worker_start_seconds: float = Field(default=120.0, gt=0)
    """How long the cluster may take to answer, and its workers to start where no other audits hold them up."""
    worker_idle_seconds: float = Field(default=300.0, ge=0)
    """A controller that has had nothing to do for this long gives its workers back; 5 s while other audits are at work
    on the same cluster."""
    ray_object_store_bytes: int = Field(default=1 << 30, ge=80 << 20)
    """Memory of the local Ray's object store; beyond it states are spilled to disk."""
    lease_seconds: float = Field(default=30.0, gt=0)
    """A controller that has not sent a heartbeat for this long loses its audit."""
    poll_seconds: float = Field(default=0.1, gt=0)
    """How soon a controller that finds no work looks again; it waits a quarter longer each time, up to 1 s."""
    max_attempts: int = Field(default=3, ge=1)
    """Attempts after infrastructure failures before an audit is `failed`."""
    retry_seconds: float = Field(default=5.0, ge=0)
    """Base of the exponential backoff between attempts."""
    max_calibration_bytes: int = Field(default=1 << 30, ge=1)
    """Bound on the calibration files of one audit, together."""
    max_request_bytes: int = Field(default=16 << 20, ge=1024)
    """Bound on the body of a request, calibration text included; a replica does nothing else while it parses one (0.8 s
    for 14 MiB of token ids)."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - ours stands in its place
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The library's own order."""
        return init_settings, _Environment(settings_cls), dotenv_settings, file_secret_settings

    @field_validator("*", mode="before")
    @classmethod
    def _written_as_json(cls, value: object, info: ValidationInfo) -> object:
        compound = get_origin(cls.model_fields[str(info.field_name)].annotation) in (list, dict)
        if compound and isinstance(value, str):
            example = '["file:///data", "s3://models/"]'
            raise PydanticCustomError("json", "This is no JSON; a list is written {example}", {"example": example})
        return value

    @field_validator("state_dir", mode="before")
    @classmethod
    def _empty_is_the_default(cls, value: object) -> object:
        return user_state_path("peelbound") if value == "" else value  # as the client has it; "" is where we are

    @field_validator("s3_region", "s3_access_key_id", "s3_secret_access_key", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value  # as Compose sets ${VARIABLE:-}

    @field_validator("s3_endpoint_url")
    @classmethod
    def _endpoint_is_a_url(cls, value: str | None) -> str | None:
        if not value:
            return None
        try:
            url = urlsplit(value)
            host, port = url.hostname or "", url.port
        except ValueError:  # the port is no number, or a bracket is missing
            host, port = "", 0
        # boto3 refuses other names (those with an underscore, which Compose permits) in each request.
        named = _HOST_NAME.fullmatch(host) is not None or ":" in host
        if not named or port == 0 or not _HTTP.fullmatch(value):
            raise PydanticCustomError("endpoint", "An endpoint is written http://host:port or https://host")
        return value

    @field_validator("webhook_allow")
    @classmethod
    def _places_are_places(cls, entries: list[str]) -> list[str]:
        Allowed.parse(entries)
        return entries

    @model_validator(mode="after")
    def _provider_is_whole(self) -> Self:
        if self.oidc_issuer is None:
            return self
        if not self.oidc_audience or not self.oidc_jwks_url:
            raise ValueError("oidc_issuer needs oidc_audience and oidc_jwks_url beside it")
        url = urlsplit(self.oidc_jwks_url)
        if url.scheme != "https" and not (url.scheme == "http" and url.hostname in ("127.0.0.1", "localhost", "::1")):
            raise ValueError("oidc_jwks_url must be https: whoever can change the keys can be anybody")
        return self

    def of_tenant(self, tenant: str) -> Self:
        """These settings with what this tenant may read as `allow`."""
        if tenant not in self.tenant_allow:
            return self
        return self.model_copy(update={"allow": self.tenant_allow[tenant], "tenant_allow": {}})

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
                variables[f"PEELBOUND_{name.upper()}"] = (
                    json.dumps(value) if isinstance(value, list | dict) else str(value)
                )
        return variables
