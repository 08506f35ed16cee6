"""Bearer tokens: found by their secret, kept without it."""

import pytest
from sqlalchemy import Engine, select

from peelbound.service.database.engine import reading
from peelbound.service.database.errors import TokenInvalid
from peelbound.service.database.tables import TokenRow
from peelbound.service.database.tokens import Identity, Tokens


def test_a_secret_is_found_and_not_kept(engine: Engine) -> None:
    tokens = Tokens(engine)
    secret = tokens.create("acme", "ci", frozenset({"read", "write"}))
    assert tokens.find(secret) == Identity("acme", "ci", frozenset({"read", "write"}))
    assert tokens.find(secret + "x") is None
    assert tokens.find("") is None
    with reading(engine) as connection:
        row = connection.execute(select(TokenRow.digest, TokenRow.tenant, TokenRow.name)).one()
    assert not any(secret in value for value in row)


def test_names_are_distinct_within_a_tenant(engine: Engine) -> None:
    tokens = Tokens(engine)
    first = tokens.create("acme", "ci", frozenset({"read"}))
    with pytest.raises(TokenInvalid, match="ci"):
        tokens.create("acme", "ci", frozenset({"admin"}))
    other = tokens.create("other", "ci", frozenset({"read"}))
    assert first != other
    assert tokens.find(first) == Identity("acme", "ci", frozenset({"read"}))


def test_unknown_scopes_are_refused(engine: Engine) -> None:
    with pytest.raises(TokenInvalid, match="root"):
        Tokens(engine).create("acme", "ci", frozenset({"read", "root"}))


def test_ensuring_twice_keeps_one_and_a_new_secret_ends_the_old(engine: Engine) -> None:
    tokens = Tokens(engine)
    tokens.ensure("secret", "acme", "up", frozenset({"read"}))
    tokens.ensure("secret", "acme", "up", frozenset({"read", "admin"}))
    assert tokens.find("secret") == Identity("acme", "up", frozenset({"read", "admin"}))
    tokens.ensure("new", "acme", "up", frozenset({"read"}))
    assert tokens.find("secret") is None
    assert tokens.find("new") == Identity("acme", "up", frozenset({"read"}))


def test_a_revoked_token_is_nobodys(engine: Engine) -> None:
    tokens = Tokens(engine)
    secret = tokens.create("acme", "ci", frozenset({"read"}))
    assert not tokens.revoke("other", "ci")
    assert tokens.revoke("acme", "ci")
    assert tokens.find(secret) is None
    assert not tokens.revoke("acme", "ci")
