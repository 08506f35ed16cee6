"""Which addresses and URLs webhooks may be sent to."""

from ipaddress import ip_address

import pytest
from pydantic import ValidationError

from peelbound.service.settings import Settings
from peelbound.service.webhooks.targets import Allowed, WebhookUrlRefused, is_public, parse_target

NOTHING = Allowed()


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "203.0.113.5",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:0:0:0:0:80ff:fffe",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a00:1",
        "64:ff9b:1:a00:0:1:808:808",
        "2001:db8::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "2600::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_an_address_that_is_not_the_internets_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))
    literal = f"[{address}]" if ":" in address else address
    with pytest.raises(WebhookUrlRefused):
        parse_target(f"https://{literal}/", NOTHING)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_an_address_of_the_internet_is_taken(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.com",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "http://hooks.example.com/",
        "http://1.1.1.1/",
        "https://user@hooks.example.com/",
        "https://user:secret@hooks.example.com/",
        "https://hooks.example.com/#fragment",
        "https://hooks.example.com:99999/",
        "https://-x-.example.com/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://[::ffff:7f00:1]/",
        "https://127。0。0。1/",
        "https://①27.0.0.1/",
    ],
)
def test_a_url_that_could_not_be_meant_is_refused(url: str) -> None:
    with pytest.raises(WebhookUrlRefused) as refused:
        parse_target(url, NOTHING)
    assert refused.value.pointer == "/url"
    assert "PEELBOUND_WEBHOOK_ALLOW" in refused.value.remedy


def test_a_url_is_kept_in_normal_form() -> None:
    target = parse_target("HTTPS://Hooks.EXAMPLE.com:443/Path?q=1", NOTHING)
    assert (target.url, target.host, target.port) == ("https://hooks.example.com/Path?q=1", "hooks.example.com", 443)
    assert parse_target("https://bücher.example/", NOTHING).host == "xn--bcher-kva.example"


def test_the_settings_allow_networks_and_names_also_by_http() -> None:
    allowed = Allowed.parse(["127.0.0.0/8", "fd00::/8", "10.1.2.3", "Hooks.Internal"])
    for url in ("http://127.0.0.1:8000/x", "https://[fd00::1]/", "http://10.1.2.3/", "http://hooks.internal/"):
        parse_target(url, allowed)
    for url in ("https://10.1.2.4/", "http://1.1.1.1/", "https://[fe80::1]/", "https://[::ffff:127.0.0.1]/"):
        with pytest.raises(WebhookUrlRefused):
            parse_target(url, allowed)
    named = parse_target("http://hooks.internal/", allowed)
    assert allowed.reaches(named, ip_address("192.168.0.9"))
    other = parse_target("http://other.internal/", allowed)  # what it resolves to decides
    assert allowed.reaches(other, ip_address("127.0.0.9"))
    assert not allowed.reaches(other, ip_address("192.168.0.9"))
    assert not allowed.reaches(other, ip_address("1.1.1.1"))  # by http only where it is allowed


@pytest.mark.parametrize("entry", ["", "http://x", "a b", "10.0.0.0/99", "*.example.com", "a/b"])
def test_a_setting_that_allows_nothing_is_refused(entry: str) -> None:
    with pytest.raises(ValidationError, match="neither an address"):
        Settings(webhook_allow=[entry])
