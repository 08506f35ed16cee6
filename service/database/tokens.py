"""Bearer tokens: who may do what for which tenant. Only the SHA-256 of a secret is kept."""

import secrets
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Engine, delete, select

from peelbound.service.database.engine import Clock, database_clock, reading, writing
from peelbound.service.database.errors import TokenInvalid
from peelbound.service.database.tables import TokenRow
from peelbound.service.database.upsert import conflicting_insert

SCOPES = frozenset({"read", "write", "admin"})


@dataclass(frozen=True)
class Identity:
    """Whom a secret belongs to."""

    tenant: str
    name: str
    scopes: frozenset[str]


class Tokens:
    """The tokens of all tenants. A tenant's tokens have distinct names."""

    def __init__(self, engine: Engine, *, clock: Clock = database_clock) -> None:
        self._engine = engine
        self._clock = clock

    def create(self, tenant: str, name: str, scopes: frozenset[str]) -> str:
        """Make a token and return its secret, which is shown this once only.

        Raises:
            TokenInvalid: the tenant has a token of this name, or a scope is unknown.
        """
        secret = f"peel_{secrets.token_urlsafe(32)}"
        with writing(self._engine) as connection:
            made = connection.scalar(
                conflicting_insert(connection, TokenRow)
                .values(
                    digest=_digest(secret),
                    tenant=tenant,
                    name=name,
                    scopes=_known(scopes),
                    created_at=self._clock(connection),
                )
                .on_conflict_do_nothing(index_elements=[TokenRow.tenant, TokenRow.name])
                .returning(TokenRow.name)
            )
        if made is None:
            raise TokenInvalid(
                f"{tenant} already has a token named {name}.", remedy="Revoke it or choose another name."
            )
        return secret

    def find(self, secret: str) -> Identity | None:
        """Whom the secret belongs to; None if to nobody."""
        with reading(self._engine) as connection:
            row = connection.execute(
                select(TokenRow.tenant, TokenRow.name, TokenRow.scopes).where(TokenRow.digest == _digest(secret))
            ).one_or_none()
        return Identity(row.tenant, row.name, frozenset(row.scopes)) if row else None

    def ensure(self, secret: str, tenant: str, name: str, scopes: frozenset[str]) -> None:
        """Make this secret the one and only secret of the tenant's token of this name.

        Raises:
            TokenInvalid: a scope is unknown.
        """
        with writing(self._engine) as connection:
            values = {"tenant": tenant, "name": name, "scopes": _known(scopes), "created_at": self._clock(connection)}
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

    def revoke(self, tenant: str, name: str) -> bool:
        """End a token; False if the tenant has none of this name."""
        with writing(self._engine) as connection:
            revoked = connection.scalar(
                delete(TokenRow).where(TokenRow.tenant == tenant, TokenRow.name == name).returning(TokenRow.name)
            )
        return revoked is not None


def _digest(secret: str) -> str:
    # A secret has 256 random bits, so a plain hash cannot be searched; salts and slow hashes are for passwords.
    return sha256(secret.encode()).hexdigest()


def _known(scopes: frozenset[str]) -> list[str]:
    if unknown := scopes - SCOPES:
        raise TokenInvalid(
            f"Unknown scopes: {', '.join(sorted(unknown))}.", remedy=f"Choose from {', '.join(sorted(SCOPES))}."
        )
    return sorted(scopes)
