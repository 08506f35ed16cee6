"""What `peelbound audit` leaves in the store of the state directory is collected, but not while it is at work."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from peelbound.cli.main import cli
from peelbound.service.retention import collecting, own_audits
from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from peelbound.service.storage.open import open_store
from peelbound.workers.errors import InfrastructureError

RESULT = "tenants/default/results/ab/abcd.json"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {"STATE_DIR": str(tmp_path), "RESULT_GRACE_SECONDS": "0"}.items():
        monkeypatch.setenv(f"PEELBOUND_{name}", value)
    for name in ("DATABASE_URL", "STORE_URL"):
        monkeypatch.delenv(f"PEELBOUND_{name}", raising=False)
    return tmp_path


@pytest.fixture
def store(state: Path) -> ObjectStore:
    """With a result of an audit whose rows went with its call."""
    store = open_store(Settings())
    store.put(RESULT, b"{}")
    return store


def gc(*words: str) -> Result:
    return CliRunner().invoke(cli, ["gc", "--json", *words])


def there(store: ObjectStore) -> bool:
    return [info.key for info in store.list("tenants/")] == [RESULT]


def test_what_no_database_knows_is_condemned_and_then_deleted(store: ObjectStore) -> None:
    for words in (["--dry-run"], []):
        assert json.loads(gc(*words).stdout)["default"]["results_condemned"] == 1
    assert there(store)
    assert json.loads(gc().stdout)["default"]["results_deleted"] == 1
    assert not there(store)


def test_nothing_is_taken_from_an_audit_at_work(state: Path, store: ObjectStore) -> None:
    gc()
    with own_audits.at_work(state), own_audits.at_work(state):
        done = gc()
        assert done.exit_code == 3
        assert "default: `peelbound audit` is at work" in done.stderr
        assert there(store)
    assert gc().exit_code == 0
    assert not there(store)


def test_a_controller_collects_others_while_one_is_at_work(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, turns = threading.Event(), [own_audits.TENANT, "acme"]
    collected: list[str] = []

    def claim(_: object) -> str | None:
        if turns:
            return turns.pop(0)
        stop.set()
        return None

    collector = SimpleNamespace(collect=collected.append)
    monkeypatch.setattr(collecting, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(collecting, "Retention", lambda _: SimpleNamespace(claim=claim))
    monkeypatch.setattr(collecting, "make_collector", lambda *_: collector)
    engine, objects = cast("Engine", None), cast("ObjectStore", SimpleNamespace(clean=lambda: None))
    with own_audits.at_work(state):
        collecting._run(Settings(), engine, objects, stop)
    assert collected == ["acme"]


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_a_tenant_that_was_misspelt_is_refused_and_not_noted(store: ObjectStore, words: list[str]) -> None:
    refused = gc("--tenant", "defualt", *words)
    assert refused.exit_code == 2
    assert "There is no tenant defualt." in refused.stderr
    assert list(json.loads(gc("--tenant", "default").stdout)) == ["default"]
    assert list(json.loads(gc().stdout)) == ["default"]


def test_a_store_without_any_has_no_such_tenant(state: Path) -> None:
    assert json.loads(gc().stdout) == {}


def test_without_a_state_directory_there_are_none(tmp_path: Path) -> None:
    with own_audits.excluded(tmp_path / "none") as alone:
        assert alone
    assert not (tmp_path / "none").exists()


def test_a_lock_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "own-audits.lock").mkdir()
    with pytest.raises(InfrastructureError, match=r"own-audits\.lock cannot be used"), own_audits.at_work(tmp_path):
        pass


def test_a_system_without_locks_keeps_nobody_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_audits, "fcntl", None)
    with own_audits.at_work(tmp_path), own_audits.excluded(tmp_path) as alone:
        assert alone
