"""Bearer tokens: who may do what for which tenant, and for how long. Only the SHA-256 of a secret is kept."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from sqlalchemy import Engine, delete, select

from peelbound.service.database import log
from peelbound.service.database.among import Among
from peelbound.service.database.engine import Clock, database_clock, reading, writing
from peelbound.service.database.errors import TokenExpired, TokenInvalid
from peelbound.service.database.log import Actor
from peelbound.service.database.tables import TokenRow
from peelbound.service.database.upsert import conflicting_insert
from peelbound.service.schemas.tenant import is_tenant

SCOPES = frozenset({"read", "write", "admin"})


@dataclass(frozen=True)
class Identity:
    """Whom a secret belongs to."""

    tenant: str
    name: str
    scopes: frozenset[str]
    id: str
    """Stands for the secret in logs and limits: `tok_` and the head of its digest, or `oidc:{subject}`."""


@dataclass(frozen=True)
class TokenInfo:
    """A token as it is listed: everything but its secret."""

    id: str
    tenant: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    expired: bool


class Tokens:
    """The tokens of all tenants. A tenant's tokens have distinct names."""

    def __init__(self, engine: Engine, *, clock: Clock = database_clock) -> None:
        self._engine = engine
        self._clock = clock
        self._among = Among(engine, TokenRow.digest)
        self._found = select(
            TokenRow.digest, TokenRow.tenant, TokenRow.name, TokenRow.scopes, TokenRow.expires_at
        ).where(self._among.condition)

    def create(
        self,
        tenant: str,
        name: str,
        scopes: frozenset[str],
        *,
        lasts: timedelta | None = None,
        by: Actor | None = None,
    ) -> str:
        """Make a token and return its secret, which is shown this once only.

        Args:
            tenant: whom it belongs to.
            name: distinct among the tenant's tokens.
            scopes: some of `SCOPES`.
            lasts: after this long it opens nothing; None is for ever.
            by: who makes it.

        Raises:
            TokenInvalid: the tenant has a token of this name, a scope is unknown or none is given, the tenant's name is
                not one, or it would not last.
        """
        if not is_tenant(tenant):
            raise TokenInvalid(
                f"{tenant!r} cannot be a tenant's name.",
                remedy="Use 1 to 63 of a-z, 0-9, - and _, beginning with a letter or digit.",
            )
        if not 0 < len(name) <= 100 or not name.isprintable():
            raise TokenInvalid(f"{name[:100]!r} cannot be a token's name.", remedy="Use 1 to 100 printable characters.")
        if not scopes:
            raise TokenInvalid("The token would have no scope.", remedy=_choose())
        if lasts is not None and not timedelta() < lasts <= timedelta(days=36_500):
            raise TokenInvalid("The token would not last, or for more than a century.", remedy="Give a lifetime.")
        secret = f"peel_{secrets.token_urlsafe(32)}"
        with writing(self._engine) as connection:
            now = self._clock(connection)
            made = connection.scalar(
                conflicting_insert(connection, TokenRow)
                .values(
                    digest=_digest(secret),
                    tenant=tenant,
                    name=name,
                    scopes=_known(scopes),
                    created_at=now,
                    expires_at=None if lasts is None else now + lasts,
                )
                .on_conflict_do_nothing(index_elements=[TokenRow.tenant, TokenRow.name])
                .returning(TokenRow.name)
            )
            if made is None:
                raise TokenInvalid(
                    f"{tenant} already has a token named {name}.", remedy="Revoke it or choose another name."
                )
            log.write(connection, tenant, by, now, "token.create", name)
        return secret

    def find(self, secret: str) -> Identity | None:
        """Whom the secret belongs to; None if to nobody.

        Raises:
            TokenExpired: it did belong to somebody.
        """
        found = self.find_all([secret]).get(secret)
        if isinstance(found, TokenExpired):
            raise found
        return found

    def find_all(self, secrets: Sequence[str]) -> dict[str, Identity | TokenExpired]:
        """Whom secrets belong to, or what is to be said of those that did; those of nobody are left out."""
        digests = {_digest(secret): secret for secret in secrets}
        found: dict[str, Identity | TokenExpired] = {}
        with reading(self._engine) as connection:
            rows = connection.execute(self._found, self._among.parameters((digest,) for digest in digests)).all()
            # The clock is asked only where it matters: on PostgreSQL it costs a round trip.
            now = self._clock(connection) if any(row.expires_at is not None for row in rows) else None
        for row in rows:
            secret = digests[row.digest]
            if now is not None and row.expires_at is not None and row.expires_at <= now:
                found[secret] = TokenExpired(
                    f"The token {row.name} expired at {row.expires_at:%Y-%m-%d %H:%M:%S} UTC.",
                    remedy="Have a new one made: peelbound token create.",
                )
            else:
                found[secret] = Identity(row.tenant, row.name, frozenset(row.scopes), _id(row.digest))
        return found

    def listed(self, tenant: str | None = None) -> list[TokenInfo]:
        """The tokens of a tenant, or of all, by tenant and name."""
        query = select(
            TokenRow.digest,
            TokenRow.tenant,
            TokenRow.name,
            TokenRow.scopes,
            TokenRow.created_at,
            TokenRow.expires_at,
        )
        if tenant is not None:
            query = query.where(TokenRow.tenant == tenant)
        with reading(self._engine) as connection:
            now = self._clock(connection)
            rows = connection.execute(query).all()
        found = [
            TokenInfo(
                _id(row.digest),
                row.tenant,
                row.name,
                row.scopes,
                row.created_at,
                row.expires_at,
                row.expires_at is not None and row.expires_at <= now,
            )
            for row in rows
        ]
        return sorted(found, key=lambda token: (token.tenant, token.name))

    def ensure(self, secret: str, tenant: str, name: str, scopes: frozenset[str]) -> None:
        """Make this secret the one and only secret of the tenant's token of this name.

        Raises:
            TokenInvalid: a scope is unknown.
        """
        with writing(self._engine) as connection:
            values = {
                "tenant": tenant,
                "name": name,
                "scopes": _known(scopes),
                "created_at": self._clock(connection),
                "expires_at": None,
            }
            connection.execute(
                delete(TokenRow).where(
                    TokenRow.tenant == tenant, TokenRow.name == name, TokenRow.digest != _digest(secret)
                )
            )
            connection.execute(
                conflicting_insert(connection, TokenRow)
                .values(digest=_digest(secret), **values)
                .on_conflict_do_update(index_elements=[TokenRow.digest], set_=values)
            )

    def revoke(self, tenant: str, name: str, *, by: Actor | None = None) -> bool:
        """End a token; False if the tenant has none of this name."""
        with writing(self._engine) as connection:
            revoked = connection.scalar(
                delete(TokenRow).where(TokenRow.tenant == tenant, TokenRow.name == name).returning(TokenRow.name)
            )
            if revoked is not None:
                log.write(connection, tenant, by, self._clock(connection), "token.revoke", name)
        return revoked is not None


def _digest(secret: str) -> str:
    # A secret has 256 random bits, so a plain hash cannot be searched; salts and slow hashes are for passwords.
    return sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _id(digest: str) -> str:
    return f"tok_{digest[:16]}"


def _known(scopes: frozenset[str]) -> list[str]:
    if unknown := scopes - SCOPES:
        raise TokenInvalid(f"Unknown scopes: {', '.join(sorted(unknown))}.", remedy=_choose())
    return sorted(scopes)


def _choose() -> str:
    return f"Choose from {', '.join(sorted(SCOPES))}."
