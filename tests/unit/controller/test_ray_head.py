"""A Ray cluster that does not answer is asked again for a while, and the wait can be ended."""

import socket

import pytest

from peelbound.service.controller import ray_head
from peelbound.service.controller.cluster import RayFailed, start_ray
from peelbound.service.controller.pulse import Stopping
from peelbound.service.controller.ray_head import await_head, unreachable
from peelbound.service.settings import Settings
from tests.s3_server import free_ports


@pytest.fixture
def nobody() -> str:
    """An address of this machine where nothing listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"


@pytest.mark.parametrize("address", ["127.0.0.1:none", "no-such-host.invalid:6379", "[::1]:1", "6379", ""])
def test_whatever_the_address_is_the_reason_is_told(address: str) -> None:
    assert unreachable(address)


def test_a_head_that_comes_up_is_noticed(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_head, "ASK_AGAIN_SECONDS", 0.01)
    asked = 0
    head = socket.socket()

    def again() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            head.bind(("127.0.0.1", int(nobody.rpartition(":")[2])))
            head.listen()

    with head:
        assert await_head(nobody, 60, again) is None
    assert asked == 3


def test_a_head_that_never_comes_is_given_up_with_the_reason(nobody: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RayFailed, match=rf"No Ray cluster answers at {nobody}: .*refused.* asked for 0.1 s"):
        start_ray(Settings(ray_address=nobody, worker_start_seconds=0.1))
    assert f"waiting for the Ray cluster at {nobody}, 0 s of at most 0.1 s" in caplog.text


def test_a_controller_that_is_told_to_stop_waits_no_longer(nobody: str) -> None:
    def stopping() -> None:
        raise Stopping("The controller is stopping.")

    with pytest.raises(Stopping):
        start_ray(Settings(ray_address=nobody, worker_start_seconds=3600), stopping)
