"""Calls of webhooks against a real server on loopback: what is reached, and what a hostile answer costs."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from peelbound.service.webhooks.sending import MOST_BODY_BYTES, Sender
from peelbound.service.webhooks.targets import Allowed
from tests.webhook_receiver import Receiver, certificate_for, receiving

LOOPBACK = Allowed.parse(["127.0.0.0/8"])
BODY = b'{"type":"webhook.test"}'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


class Rebinding:
    """A resolver whose answer changes with every question, as a hostile name server's with a lifetime of nothing."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.questions = list(answers), 0

    def __call__(self, host: str, port: int) -> list[str]:
        self.questions += 1
        return self.answers[min(self.questions, len(self.answers)) - 1]


def test_a_message_arrives_as_it_was_given(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # the environment's proxies are not for webhooks
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    answer = Sender(LOOPBACK, 10).post(receiver.url, {"Webhook-Id": "one"}, BODY)
    assert (answer.status, answer.error) == (204, None)
    (got,) = receiver.received
    assert got.body == BODY
    assert got.headers["webhook-id"] == "one"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"


def test_loopback_is_refused_where_the_settings_do_not_allow_it(receiver: Receiver) -> None:
    assert Sender(Allowed(), 10).post(receiver.url, {}, BODY).error is not None
    for url in (f"https://localhost:{receiver.port}/", f"https://127.0.0.1:{receiver.port}/"):
        answer = Sender(Allowed(), 10).post(url, {}, BODY)
        assert (answer.status, answer.error is None) == (None, False)
    assert receiver.received == []
    assert receiver.sent_bytes == 0


def test_a_name_that_means_another_address_the_second_time_reaches_nothing(receiver: Receiver) -> None:
    """The address that was checked is the one that is connected to, and the name is asked for once."""
    resolver = Rebinding(["10.0.0.1"], ["127.0.0.1"])
    allowed = Allowed.parse(["127.0.0.1"])
    sender = Sender(allowed, 10, resolver)
    url = f"http://rebinding.test:{receiver.port}/hook"
    refused = sender.post(url, {}, BODY)
    assert (refused.status, refused.error) == (None, "The host has no address that may be called.")
    assert resolver.questions == 1
    assert receiver.received == []
    delivered = sender.post(url, {}, BODY)  # a later message asks anew
    assert (delivered.status, resolver.questions) == (204, 2)
    turned = Sender(allowed, 10, Rebinding(["127.0.0.1"], ["10.0.0.1"]))
    assert turned.post(url, {}, BODY).status == 204
    assert receiver.received[-1].headers["host"] == f"rebinding.test:{receiver.port}"


def test_of_several_addresses_only_those_that_may_be_called_are(receiver: Receiver) -> None:
    resolver = Rebinding(["169.254.169.254", "::1", "127.0.0.1"])
    answer = Sender(Allowed.parse(["127.0.0.1"]), 10, resolver).post(f"http://many.test:{receiver.port}/hook", {}, BODY)
    assert answer.status == 204


def test_a_name_that_is_not_known_and_one_that_may_not_be_called_look_the_same() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    # By the time that they took, too: all of it is the look-up.
    answers = {
        Sender(Allowed(), 10, resolver).post("https://internal.test/", {}, BODY)
        for resolver in (unknown, Rebinding(["10.0.0.1"]), Rebinding([]))
    }
    assert len(answers) == 1
    assert answers.pop().seconds == 0


def test_tls_is_spoken_with_the_name_at_the_address_that_was_checked(tmp_path: Path) -> None:
    server, client = certificate_for("hooks.test", tmp_path)
    with receiving(server) as receiver:
        right = Sender(LOOPBACK, 10, Rebinding(["127.0.0.1"]), client)
        assert right.post(f"https://hooks.test:{receiver.port}/hook", {}, BODY).status == 204
        assert receiver.names == ["hooks.test"]
        assert receiver.received[0].headers["host"] == f"hooks.test:{receiver.port}"
        wrong = right.post(f"https://other.test:{receiver.port}/hook", {}, BODY)
        assert "certificate" in str(wrong.error).lower()
        strict = Sender(LOOPBACK, 10, Rebinding(["127.0.0.1"])).post(f"https://hooks.test:{receiver.port}/", {}, BODY)
        assert "certificate" in str(strict.error).lower()
        assert len(receiver.received) == 1


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    answer = Sender(LOOPBACK, 10).post(receiver.url.replace("hook", "redirect"), {}, BODY)
    assert answer.status == 307
    assert "not followed" in str(answer.error)
    assert [got.path for got in receiver.received] == ["/redirect"]


def test_how_long_a_receiver_asks_to_be_left_alone_is_told_of_429_and_503_only(receiver: Receiver) -> None:
    now = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)
    sender = Sender(LOOPBACK, 10, clock=lambda: now)
    for receiver.retry_after, asked in (("120", 120), ("Wed, 25 Nov 2026 10:30:00 GMT", 3600), ("soon", None)):
        for status in (429, 503):
            receiver.answers = [status]
            answer = sender.post(receiver.url, {}, BODY)
            assert 0 < answer.seconds < 10
            assert (answer.status, answer.error, answer.asked_seconds) == (status, f"Status {status}.", asked)
    receiver.retry_after = "120"
    for status in (204, 301, 404, 500):
        receiver.answers = [status]
        assert sender.post(receiver.url, {}, BODY).asked_seconds is None


def test_an_endless_answer_is_left_after_a_little_of_it(receiver: Receiver) -> None:
    answer = Sender(LOOPBACK, 10).post(receiver.url.replace("hook", "endless"), {}, BODY)
    assert (answer.status, answer.error) == (200, None)
    # What was sent beyond the bound lies in the buffers of both sockets.
    assert receiver.sent_bytes < MOST_BODY_BYTES + (16 << 20)


@pytest.mark.parametrize("path", ["silent", "dripping"])
def test_the_time_for_an_answer_holds_for_all_of_it(receiver: Receiver, path: str) -> None:
    """Each dripping byte comes well within the limit; a limit for each would never end this test."""
    answer = Sender(LOOPBACK, 0.5).post(receiver.url.replace("hook", path), {}, BODY)
    assert answer.status is None
    assert answer.error == "No answer within 0.5 s."


@pytest.mark.parametrize("path", ["headers", "noise"])
def test_what_is_no_answer_is_a_failure(receiver: Receiver, path: str) -> None:
    answer = Sender(LOOPBACK, 10).post(receiver.url.replace("hook", path), {}, BODY)
    assert answer.status is None
    assert "ProtocolError" in str(answer.error)


def test_a_port_where_nobody_listens_is_a_failure() -> None:
    with receiving() as receiver:
        url = receiver.url
    answer = Sender(LOOPBACK, 10).post(url, {}, BODY)
    assert answer.status is None
    assert "refused" in str(answer.error)
