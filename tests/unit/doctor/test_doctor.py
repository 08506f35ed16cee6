"""What observations mean, where no server needs to be asked."""

from pathlib import Path

import pytest

from peelbound.service.doctor import cluster, store
from peelbound.service.doctor.clock import skew
from peelbound.service.doctor.host import examine_allow_list, examine_disks
from peelbound.service.settings import Settings
from peelbound.service.storage.directory import DirectoryStore


@pytest.mark.parametrize(
    ("ahead", "doubt", "status"),
    [(0.2, 0.1, "ok"), (-5.4, 0.5, "ok"), (-6.0, 0.5, "warning"), (60.4, 0.5, "warning"), (-61.0, 0.5, "wrong")],
)
def test_a_clock_is_wrong_only_as_far_as_is_certain(ahead: float, doubt: float, status: str) -> None:
    found = skew("clock", "The other clock", ahead, doubt)
    assert found.status == status
    assert ("ahead" in found.detail) == (ahead > 0)


class Forgetful(DirectoryStore):
    """A store that takes If-None-Match for a wish."""

    def put_if_absent(self, key: str, data: bytes, *, media_type: str = "") -> bool:
        self.put(key, data)
        return True


def test_a_store_without_conditional_writes_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "open_store", lambda _: Forgetful(tmp_path))
    promises = list(store.examine_store(Settings()))[-1]
    assert promises.status == "wrong"
    assert "If-None-Match" in promises.detail


def test_a_directory_keeps_its_promises_and_nothing_is_left(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert [(f.part, f.status) for f in store.examine_store(settings)] == [
        ("store", "ok"),
        ("store clock", "skipped"),
        ("store promises", "ok"),
    ]
    assert list((tmp_path / "objects").rglob("*.object")) == []


def test_each_prefix_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    there, missing = tmp_path / "a b", tmp_path / "missing"
    there.mkdir()
    found = list(examine_allow_list(Settings(allow=[there.as_uri(), str(missing)])))
    assert [f.status for f in found] == ["ok", "wrong"]
    assert str(missing) in found[1].detail
    (long,) = examine_allow_list(Settings(allow=[f"file:///{'x' * 300}"]))
    assert (long.status, "too long" in long.detail) == ("wrong", True)
    (refused,) = examine_allow_list(Settings(allow=["http://x/"]))
    assert (refused.status, "http://x/" in refused.detail) == ("wrong", True)
    (empty,) = examine_allow_list(Settings())
    assert empty.status == "warning"


def test_every_place_that_is_written_to_is_looked_at(tmp_path: Path) -> None:
    details = [f.detail for f in examine_disks(Settings(state_dir=tmp_path / "not" / "yet"))]
    assert any(str(tmp_path / "not" / "yet" / "objects") in detail for detail in details)
    remote = Settings(database_url="postgresql+psycopg://h/d", store_url="s3://b/p", ray_address="head:6379")
    assert [f.part for f in examine_disks(remote)] == ["disk", "shared memory"]


def test_a_ray_that_cannot_be_reached_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert cluster.examine_cluster(Settings()).status == "skipped"
    assert "Client" in cluster.examine_cluster(Settings(ray_address="ray://head:10001")).detail
    away = cluster.examine_cluster(Settings(ray_address="127.0.0.1:1"))
    assert (away.status, "127.0.0.1:1" in away.detail) == ("wrong", True)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    without = cluster.examine_cluster(Settings(ray_address="127.0.0.1:1"))
    assert str(tmp_path / "token") in without.detail
    assert "RAY_AUTH_TOKEN" in without.remedy
