"""Commands of whoever runs a service, on its database and without a server."""

import json
import subprocess
from pathlib import Path

import pytest

from peelbound.service.database.engine import make_engine
from peelbound.service.database.tokens import Tokens
from tests.integration.cli.conftest import Run


@pytest.fixture
def operated(run: Run, database_url: str) -> Run:
    """Runs `peelbound` on a database that it has migrated."""

    def peelbound(*words: str) -> "subprocess.CompletedProcess[str]":
        return run(*words, PEELBOUND_DATABASE_URL=database_url)

    assert peelbound("migrate").returncode == 0
    return peelbound


def test_a_token_is_made_listed_and_revoked(operated: Run, database_url: str) -> None:
    def peelbound(*words: str) -> str:
        done = operated(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    secret = peelbound("token", "create", "--tenant", "acme", "--name", "ci", "--scope", "read").strip()
    other = json.loads(peelbound("token", "create", "--name", "all", "--expires-in", "never", "--json"))["token"]
    engine = make_engine(database_url)
    tokens = Tokens(engine)
    identity = tokens.find(secret)
    assert identity is not None
    assert (identity.tenant, identity.name, identity.scopes) == ("acme", "ci", {"read"})
    listed = peelbound("token", "list")
    assert identity.id in listed
    assert secret not in listed
    entries = json.loads(peelbound("token", "list", "--tenant", "acme", "--json"))
    assert [(entry["name"], entry["expired"]) for entry in entries] == [("ci", False)]
    assert entries[0]["expires_at"] is not None
    peelbound("token", "revoke", "--tenant", "acme", "ci")
    assert tokens.find(secret) is None
    assert tokens.find(other) is not None
    log = json.loads(peelbound("log", "--json"))["items"]
    assert [entry["action"] for entry in log] == ["token.revoke", "token.create", "token.create"]
    assert "token.revoke" in peelbound("log", "--tenant", "acme")
    engine.dispose()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("token", "revoke", "nobody"), 3, "no token named nobody"),
        (("token", "create", "--tenant", "../up", "--name", "x"), 3, "tenant"),
        (("token", "create", "--name", "x", "--expires-in", "0d"), 2, "90d"),
        (("token", "create", "--name", "x", "--scope", "root"), 2, "root"),
    ],
)
def test_what_cannot_be_done_is_said(operated: Run, words: tuple[str, ...], code: int, said: str) -> None:
    done = operated(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_a_wrong_setting_is_named(run: Run) -> None:
    done = run("token", "list", PEELBOUND_WORKERS="none")
    assert done.returncode == 2
    assert "PEELBOUND_WORKERS" in done.stderr


def test_a_database_file_that_a_command_makes_is_its_owners_alone(program: Run, tmp_path: Path) -> None:
    assert program("migrate").returncode == 0
    made = program("token", "create", "--name", "ci")
    assert made.returncode == 0, made.stderr
    (file,) = (tmp_path / "state-of-nobody").glob("*.db")
    assert str(file) in made.stderr
    assert [path.stat().st_mode & 0o777 for path in (file.parent, file)] == [0o700, 0o600]
