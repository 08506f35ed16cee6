"""The state directory's token goes to the service that holds the directory, and to nobody else."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from peelbound import local
from peelbound.aio import AsyncClient
from peelbound.cli.connect import service_for
from peelbound.endpoint import Endpoint, find_endpoint
from peelbound.errors import EndpointInvalid, ServiceNotFound, ServiceStarting
from peelbound.local import StateDirBusy, ensure_secret, holding, is_held, publish_url, read_token, running_url
from tests.waiting import DEADLINE_SECONDS

URL = "http://127.0.0.1:8734"


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEELBOUND_URL", raising=False)
    monkeypatch.delenv("PEELBOUND_TOKEN", raising=False)


@pytest.fixture
def token(tmp_path: Path) -> str:
    return ensure_secret(tmp_path / "token")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A state directory whose service answers under URL."""
    with holding(tmp_path):
        publish_url(tmp_path, URL)
        yield tmp_path


@pytest.mark.parametrize("address", [None, URL, f"{URL}/"])
def test_the_service_that_holds_the_directory_gets_its_token(held: Path, token: str, address: str | None) -> None:
    assert find_endpoint(address, state_dir=held) == Endpoint(URL, token)


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("address", ["http://127.0.0.1:8735", "http://localhost:1", "https://peelbound.example"])
def test_another_address_gets_only_a_token_that_is_given(
    held: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_endpoint(address, state_dir=held) == Endpoint(address, None)
    monkeypatch.setenv("PEELBOUND_TOKEN", "theirs")
    assert find_endpoint(address, state_dir=held) == Endpoint(address, "theirs")


@pytest.mark.usefixtures("token")
def test_an_address_whose_service_has_ended_gets_no_token(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(URL)
    assert find_endpoint(URL, state_dir=tmp_path).token is None
    with pytest.raises(ServiceNotFound):
        find_endpoint(state_dir=tmp_path)


def test_a_state_directory_that_cannot_be_looked_into_holds_no_service(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = tmp_path / "file" / "state"
    assert running_url(nowhere) is None
    assert read_token(nowhere) is None
    assert find_endpoint(URL, state_dir=nowhere) == Endpoint(URL, None)
    with pytest.raises(ServiceNotFound):
        find_endpoint(state_dir=nowhere)


def test_with_address_and_token_the_state_directory_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEELBOUND_STATE_DIR", "~no-such-user/state")
    assert find_endpoint(URL, "theirs") == Endpoint(URL, "theirs")


def test_a_state_directory_of_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEELBOUND_STATE_DIR", "~no-such-user/state")
    with pytest.raises(EndpointInvalid, match="PEELBOUND_STATE_DIR is no path"):
        find_endpoint(URL)


@pytest.mark.parametrize("given", ["peel_X\n", " peel_X\r\n", "peel_X"])
def test_white_space_around_a_token_is_not_part_of_it(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    assert find_endpoint(URL, given) == Endpoint(URL, "peel_X")
    monkeypatch.setenv("PEELBOUND_TOKEN", given)
    assert find_endpoint(URL) == Endpoint(URL, "peel_X")


def test_a_token_of_white_space_is_none(held: Path, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEELBOUND_TOKEN", "\n")
    assert find_endpoint(state_dir=held) == Endpoint(URL, token)


@pytest.mark.parametrize("given", ["peel_X\nY", "peel_é", "peel_\x00"])
def test_a_token_that_no_header_may_carry_is_refused_and_not_quoted(given: str) -> None:
    with pytest.raises(EndpointInvalid) as refused:
        find_endpoint(URL, given)
    assert "peel_" not in str(refused.value)


@pytest.mark.parametrize("address", ["http://[::1", "http://host:port", "http://a\nb", "http://.example"])
def test_an_address_that_is_no_url_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("PEELBOUND_URL", address)
    for token in (None, "theirs"):
        with pytest.raises(EndpointInvalid, match="PEELBOUND_URL"):
            find_endpoint(token=token)


@pytest.mark.parametrize("address", ["http://me:hidden@127.0.0.1:8734", "http://hidden@[::1", "http://me:hid#den@host"])
def test_a_password_in_the_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(EndpointInvalid, match="PEELBOUND_URL") as refused:
        find_endpoint(address, "theirs")
    assert "hid" not in str(refused.value)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens at the looks that follow, none of which are waited for."""
    happen: list[Callable[[], object]] = []
    monkeypatch.setattr(local, "time", SimpleNamespace(sleep=lambda _: happen.pop(0)() if happen else None))
    return happen


def test_a_service_that_is_starting_is_waited_for(
    tmp_path: Path, token: str, looks: list[Callable[[], object]]
) -> None:
    looks += [lambda: None, lambda: publish_url(tmp_path, URL)]
    with holding(tmp_path):
        assert find_endpoint(state_dir=tmp_path) == Endpoint(URL, token)


@pytest.mark.usefixtures("looks")
def test_a_service_that_takes_long_to_start_is_said_to_be_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEELBOUND_STATE_DIR", str(tmp_path))
    with holding(tmp_path):
        with pytest.raises(ServiceStarting, match="is starting"):
            find_endpoint()
        with pytest.raises(ServiceStarting), service_for([], with_controller=False):
            pass
        assert find_endpoint("http://peelbound.example").token is None


def test_an_event_loop_is_not_held_up_by_a_service_that_is_starting(
    tmp_path: Path, looks: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEELBOUND_STATE_DIR", str(tmp_path))
    looks.append(lambda: pytest.fail("it waited"))
    with holding(tmp_path), pytest.raises(ServiceStarting):
        AsyncClient()


def test_one_that_ends_before_it_answers_is_none(tmp_path: Path, looks: list[Callable[[], object]]) -> None:
    service = holding(tmp_path)
    service.__enter__()
    looks.append(lambda: service.__exit__(None, None, None))
    with pytest.raises(ServiceNotFound, match="no service runs"):
        find_endpoint(state_dir=tmp_path)


def test_who_looks_whether_a_service_runs_keeps_none_from_starting(
    tmp_path: Path, looks: list[Callable[[], object]]
) -> None:
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        looks.append(lambda: fcntl.flock(file, fcntl.LOCK_UN))
        with holding(tmp_path):
            assert is_held(tmp_path)
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StateDirBusy), holding(tmp_path):
            pass


def test_without_locks_no_service_runs_nor_starts_and_one_elsewhere_is_found(tmp_path: Path) -> None:
    """As on Windows, whose Python has no `fcntl`."""
    program = f"""
import sys
sys.modules["fcntl"] = None
from pathlib import Path
from peelbound.client import Client
from peelbound.errors import ServiceNotFound
from peelbound.local import StartFailed, holding
Path({str(tmp_path)!r}, "lock").touch()
print(Client("http://peelbound.example", "t").url)
for start in (Client, holding(Path({str(tmp_path)!r})).__enter__):
    try:
        start()
    except (ServiceNotFound, StartFailed) as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PEELBOUND_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=True,
    )
    found, none_runs, none_starts = done.stdout.splitlines()
    assert found == "http://peelbound.example"
    assert "no service runs" in none_runs
    assert "No service can run on this system" in none_starts
