"""Bearer tokens: found by their secret, kept without it."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine, select

from peelbound.service.database.engine import reading
from peelbound.service.database.errors import TokenExpired, TokenInvalid
from peelbound.service.database.log import Actor, Log
from peelbound.service.database.tables import TokenRow
from peelbound.service.database.tokens import Identity, Tokens
from tests.integration.database.harness import PushedClock

READ = frozenset({"read"})


def known(tokens: Tokens, secret: str) -> tuple[str, str, frozenset[str]] | None:
    identity = tokens.find(secret)
    return None if identity is None else (identity.tenant, identity.name, identity.scopes)


def test_a_secret_is_found_and_not_kept(engine: Engine) -> None:
    tokens = Tokens(engine)
    secret = tokens.create("acme", "ci", frozenset({"read", "write"}))
    (listed,) = tokens.listed()
    assert tokens.find(secret) == Identity("acme", "ci", frozenset({"read", "write"}), listed.id)
    assert tokens.find(secret + "x") is None
    assert tokens.find("") is None
    with reading(engine) as connection:
        row = connection.execute(select(TokenRow)).one()
    assert not any(secret in str(value) for value in row)


def test_names_are_distinct_within_a_tenant(engine: Engine) -> None:
    tokens = Tokens(engine)
    first = tokens.create("acme", "ci", READ)
    with pytest.raises(TokenInvalid, match="ci"):
        tokens.create("acme", "ci", frozenset({"admin"}))
    other = tokens.create("other", "ci", READ)
    assert first != other
    assert known(tokens, first) == ("acme", "ci", READ)


def test_unknown_scopes_are_refused(engine: Engine) -> None:
    with pytest.raises(TokenInvalid, match="root"):
        Tokens(engine).create("acme", "ci", frozenset({"read", "root"}))
    with pytest.raises(TokenInvalid, match="no scope"):
        Tokens(engine).create("acme", "ci", frozenset())


@pytest.mark.parametrize("tenant", ["", "a/b", "..", "a.b", "Acme", "-a", "a" * 64, "a\n", "ä", "a\0"])
def test_a_tenant_that_could_not_be_a_folder_of_its_own_is_refused(engine: Engine, tenant: str) -> None:
    with pytest.raises(TokenInvalid, match="tenant"):
        Tokens(engine).create(tenant, "ci", READ)


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb", "\x1b[31m"])
def test_a_name_that_would_spoil_a_list_is_refused(engine: Engine, name: str) -> None:
    with pytest.raises(TokenInvalid, match="name"):
        Tokens(engine).create("acme", name, READ)


def test_ensuring_twice_keeps_one_and_a_new_secret_ends_the_old(engine: Engine) -> None:
    tokens = Tokens(engine)
    tokens.ensure("secret", "acme", "up", READ)
    tokens.ensure("secret", "acme", "up", frozenset({"read", "admin"}))
    assert known(tokens, "secret") == ("acme", "up", frozenset({"read", "admin"}))
    tokens.ensure("new", "acme", "up", READ)
    assert tokens.find("secret") is None
    assert known(tokens, "new") == ("acme", "up", READ)


def test_a_revoked_token_is_nobodys(engine: Engine) -> None:
    tokens = Tokens(engine)
    secret = tokens.create("acme", "ci", READ)
    assert not tokens.revoke("other", "ci")
    assert tokens.revoke("acme", "ci")
    assert tokens.find(secret) is None
    assert not tokens.revoke("acme", "ci")


def test_a_token_opens_nothing_once_its_time_is_over(engine: Engine) -> None:
    clock = PushedClock()
    tokens = Tokens(engine, clock=clock)
    secret = tokens.create("acme", "ci", READ, lasts=timedelta(hours=1))
    clock.push(3590)
    assert known(tokens, secret) == ("acme", "ci", READ)
    assert [token.expired for token in tokens.listed("acme")] == [False]
    clock.push(20)
    with pytest.raises(TokenExpired, match="ci"):
        tokens.find(secret)
    assert [token.expired for token in tokens.listed("acme")] == [True]
    with pytest.raises(TokenInvalid):
        tokens.create("acme", "other", READ, lasts=timedelta())


def test_a_list_holds_a_tenants_own_or_all(engine: Engine) -> None:
    tokens = Tokens(engine)
    for tenant, name in (("other", "b"), ("acme", "b"), ("acme", "a")):
        tokens.create(tenant, name, READ)
    assert [(token.tenant, token.name) for token in tokens.listed()] == [
        ("acme", "a"),
        ("acme", "b"),
        ("other", "b"),
    ]
    assert [token.name for token in tokens.listed("other")] == ["b"]


def test_making_and_revoking_are_logged(engine: Engine) -> None:
    tokens, by = Tokens(engine), Actor("cli", "alice", "r1")
    tokens.create("acme", "ci", READ, by=by)
    with pytest.raises(TokenInvalid):
        tokens.create("acme", "ci", READ, by=by)
    tokens.revoke("acme", "ci", by=by)
    tokens.revoke("acme", "ci", by=by)
    page = Log(engine).page("acme")
    assert [(entry.action, entry.target, entry.actor_name) for entry in page.items] == [
        ("token.revoke", "ci", "alice"),
        ("token.create", "ci", "alice"),
    ]
    assert Log(engine).page("other").items == []
    assert len(Log(engine).page(None).items) == 2
