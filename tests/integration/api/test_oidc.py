"""Tokens of an identity provider, with real keys from a real server; the clock of the keys' cache is the test's."""

import asyncio
import json
import socket
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Lock, Thread
from typing import Any

import jwt
import pytest
from anyio.to_thread import current_default_thread_limiter
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from peelbound.api import oidc
from peelbound.api.oidc import ASK_AGAIN_SECONDS, FRESH_SECONDS, STALE_SECONDS, IdentityProvider, Keys
from peelbound.service.settings import Settings
from tests.unit.api.harness import Api, problem
from tests.waiting import DEADLINE_SECONDS

ISSUER = "https://login.example"
Change = Callable[[dict[str, Any]], None]


@dataclass
class Provider:
    """An identity provider: its server, its keys, and the clock by which we hold them for fresh."""

    url: str = ""
    keys: dict[str, Any] = field(default_factory=dict)
    down: bool = False
    body: bytes | None = None
    questions: int = 0
    now: float = 1000.0

    def add(self, key_id: str, curve: bool = False) -> None:
        self.keys[key_id] = (
            ec.generate_private_key(ec.SECP256R1())
            if curve
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )

    def answer(self) -> bytes:
        if self.body is not None:
            return self.body
        described = []
        for key_id, key in self.keys.items():
            algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
            described.append({**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig"})
        return json.dumps({"keys": described}).encode()

    def token(self, key_id: str = "first", algorithm: str = "RS256", key: Any = None, **changes: Any) -> str:
        """A token; a claim changed to None is left out."""
        claims = {
            "iss": ISSUER,
            "aud": "peelbound",
            "sub": "alice",
            "exp": time.time() + 300,
            "tenant": "acme",
            "scope": "openid peelbound:read peelbound:write",
        }
        claims = {name: value for name, value in (claims | changes).items() if value is not None}
        return jwt.encode(claims, key or self.keys[key_id], algorithm, headers={"kid": key_id})


@pytest.fixture
def provider() -> Iterator[Provider]:
    it = Provider()
    it.add("first")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            it.questions += 1
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/jwks")
                self.end_headers()
                return
            if it.down:
                self.send_error(503)
                return
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(it.answer())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        it.url = f"http://127.0.0.1:{server.server_port}/jwks"
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield it
        server.shutdown()


@pytest.fixture
def settings(tmp_path: Path, provider: Provider) -> Settings:
    return Settings(
        state_dir=tmp_path,
        allow=["/data"],
        oidc_issuer=ISSUER,
        oidc_audience="peelbound",
        oidc_jwks_url=provider.url,
    )


@pytest.fixture
def clocked(api: Api, provider: Provider) -> Api:
    """The application, whose keys grow old by the provider's clock."""
    object.__setattr__(api.context, "provider", IdentityProvider(api.context.settings, lambda: provider.now))
    return api


def ask(api: Api, token: str, method: str = "GET", path: str = "/v1/audits") -> Any:
    return api.client.request(method, path, headers={"Authorization": f"Bearer {token}"})


def test_a_subject_acts_for_its_tenant_with_its_scopes(clocked: Api, provider: Provider) -> None:
    token = provider.token()
    audit_id = clocked.submit(headers={"Authorization": f"Bearer {token}"})
    assert [record["id"] for record in ask(clocked, token).json()["items"]] == [audit_id]
    assert clocked.client.get("/v1/audits").json()["items"] == []
    problem(ask(clocked, token, path="/v1/log"), 403, "scope-missing")
    admin = provider.token(sub="bob", scope=["peelbound:admin"])
    (entry,) = ask(clocked, admin, path="/v1/log").json()["items"]
    assert (entry["actor"], entry["tenant"], entry["target"]) == ("oidc:alice", "acme", audit_id)


WRONG: dict[str, dict[str, Any]] = {
    "another audience": {"aud": "somebody-else"},
    "another issuer": {"iss": "https://evil.example"},
    "no expiry": {"exp": None},
    "no audience": {"aud": None},
    "no issuer": {"iss": None},
    "no subject": {"sub": None},
    "not yet": {"nbf": time.time() + 3600},
    "no tenant": {"tenant": None},
    "a tenant that is a path": {"tenant": "../default"},
    "a tenant that is no text": {"tenant": ["acme"]},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_a_token_with_a_wrong_claim_is_refused(clocked: Api, provider: Provider, changes: dict[str, Any]) -> None:
    problem(ask(clocked, provider.token(**changes)), 401, "unauthenticated")
    assert ask(clocked, provider.token()).status_code == 200


def test_an_expired_token_is_refused_as_such(clocked: Api, provider: Provider) -> None:
    refused = ask(clocked, provider.token(exp=time.time() - 60))
    problem(refused, 401, "token-expired")
    assert refused.headers["www-authenticate"].startswith("Bearer")


def test_a_token_without_signature_is_refused(clocked: Api, provider: Provider) -> None:
    header, claims, _ = provider.token().split(".")
    unsigned = urlsafe_b64encode(b'{"alg":"none","kid":"first"}').decode().rstrip("=")
    for token in (f"{header}.{claims}.", f"{unsigned}.{claims}."):
        problem(ask(clocked, token), 401, "unauthenticated")


def test_the_public_key_does_not_serve_as_a_shared_secret(clocked: Api, provider: Provider) -> None:
    public = json.loads(provider.answer())["keys"][0]["n"]
    problem(ask(clocked, provider.token(algorithm="HS256", key=public)), 401, "unauthenticated")


def test_a_token_of_a_key_that_the_provider_does_not_have_is_refused(clocked: Api, provider: Provider) -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    problem(ask(clocked, provider.token(key=stranger)), 401, "unauthenticated")
    problem(ask(clocked, provider.token("unknown", key=stranger)), 401, "unauthenticated")


def test_a_key_is_taken_with_its_own_algorithm_only(clocked: Api, provider: Provider) -> None:
    provider.add("curve", curve=True)
    assert ask(clocked, provider.token("curve", "ES256")).status_code == 200
    problem(ask(clocked, provider.token("first", "ES256", key=provider.keys["curve"])), 401, "unauthenticated")


def test_a_new_key_is_taken_at_once_and_a_withdrawn_one_not_for_long(clocked: Api, provider: Provider) -> None:
    old = provider.token("first")
    assert ask(clocked, old).status_code == 200
    provider.add("second")
    provider.now += ASK_AGAIN_SECONDS
    assert ask(clocked, provider.token("second")).status_code == 200
    del provider.keys["first"]
    assert ask(clocked, old).status_code == 200
    provider.now += FRESH_SECONDS + 1
    problem(ask(clocked, old), 401, "unauthenticated")


def test_tokens_with_made_up_keys_do_not_make_us_ask_each_time(clocked: Api, provider: Provider) -> None:
    stranger = provider.token("made-up", key=provider.keys["first"])
    for _ in range(20):
        problem(ask(clocked, stranger), 401, "unauthenticated")
    assert provider.questions == 1


def test_while_the_provider_is_away_known_keys_last_an_hour(clocked: Api, provider: Provider) -> None:
    token = provider.token()
    assert ask(clocked, token).status_code == 200
    provider.down = True
    provider.now += STALE_SECONDS - 1
    assert ask(clocked, token).status_code == 200
    provider.now += ASK_AGAIN_SECONDS
    refused = ask(clocked, token)
    assert "503" in problem(refused, 503, "identity-provider-unavailable")["detail"]
    assert clocked.client.get("/v1/audits").status_code == 200
    provider.down = False
    provider.now += ASK_AGAIN_SECONDS
    assert ask(clocked, token).status_code == 200


def test_while_the_provider_is_silent_known_keys_are_taken_and_no_thread_waits(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, questions = asyncio.Event(), 0
    fetch = oidc._fetch

    async def fetched(url: str) -> dict[str, jwt.PyJWK]:
        nonlocal questions
        questions += 1
        if questions > 1:
            await silent.wait()
        return await fetch(url)

    async def asked() -> None:
        keys = Keys(provider.url, lambda: provider.now)
        known = await keys.get("first")
        assert known is not None
        provider.now += ASK_AGAIN_SECONDS
        strangers = [asyncio.create_task(keys.get(f"made up {number}")) for number in range(100)]
        await asyncio.sleep(0)
        strangers.pop().cancel()
        await asyncio.sleep(0)
        assert await keys.get("first") is known
        assert current_default_thread_limiter().borrowed_tokens == 0
        silent.set()
        assert set(await asyncio.gather(*strangers)) == {None}
        assert questions == 2

    monkeypatch.setattr(oidc, "_fetch", fetched)
    asyncio.run(asked())


def test_signatures_are_verified_in_a_few_threads_of_their_own(
    settings: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifying, most, decode = [0], [0], jwt.decode
    lock, both = Lock(), Barrier(oidc.VERIFIED_AT_ONCE)  # two at a time, or a broken barrier

    def decoded(*args: Any, **options: Any) -> dict[str, Any]:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        with lock:
            verifying[0] += 1
            most[0] = max(most[0], verifying[0])
        both.wait(DEADLINE_SECONDS)
        with lock:
            verifying[0] -= 1
        return decode(*args, **options)

    async def asked() -> None:
        identities = IdentityProvider(settings)
        found = [identities.identify(provider.token(sub=str(number))) for number in range(2 * oidc.VERIFIED_AT_ONCE)]
        assert [identity.tenant for identity in await asyncio.gather(*found)] == ["acme"] * len(found)

    monkeypatch.setattr(jwt, "decode", decoded)
    asyncio.run(asked())
    assert most[0] == oidc.VERIFIED_AT_ONCE


def test_a_provider_that_does_not_answer_is_not_waited_for_for_long(
    clocked: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "ANSWER_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/jwks"
        changed = clocked.context.settings.model_copy(update={"oidc_jwks_url": url})
        object.__setattr__(clocked.context, "provider", IdentityProvider(changed))
        token = jwt.encode({}, rsa.generate_private_key(65537, 2048), "RS256", headers={"kid": "first"})
        problem(ask(clocked, token), 503, "identity-provider-unavailable")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": [1]}', b"\xff", b'"' + b"x" * (2 << 20) + b'"'])
def test_keys_that_are_none_are_said_to_be(clocked: Api, provider: Provider, body: bytes) -> None:
    provider.body = body
    problem(ask(clocked, provider.token()), 503, "identity-provider-unavailable")


def test_the_address_of_the_keys_is_not_followed_elsewhere(clocked: Api, provider: Provider) -> None:
    changed = clocked.context.settings.model_copy(update={"oidc_jwks_url": provider.url.replace("/jwks", "/moved")})
    object.__setattr__(clocked.context, "provider", IdentityProvider(changed))
    problem(ask(clocked, provider.token()), 503, "identity-provider-unavailable")


@pytest.mark.parametrize("token", ["a.b.c", "a" * 20_000 + ".b.c", "..", "eyJhbGciOiJSUzI1NiJ9.e30.x", "peel_a.b.c"])
def test_what_only_looks_like_a_token_is_refused(clocked: Api, token: str) -> None:
    problem(ask(clocked, token), 401, "unauthenticated")


def test_names_of_the_provider_can_be_translated(clocked: Api, provider: Provider) -> None:
    changed = clocked.context.settings.model_copy(
        update={
            "oidc_tenant_claim": "org",
            "oidc_tenants": {"Acme Ltd": "acme"},
            "oidc_scope_claim": "groups",
            "oidc_scopes": {"auditors": "read"},
        }
    )
    object.__setattr__(clocked.context, "provider", IdentityProvider(changed))
    token = provider.token(org="Acme Ltd", groups=["auditors", "peelbound:write", 7])
    assert ask(clocked, token).status_code == 200
    problem(ask(clocked, token, "POST"), 403, "scope-missing")
    problem(ask(clocked, provider.token(org="acme")), 401, "unauthenticated")


@pytest.mark.parametrize(
    "changes",
    [{"oidc_audience": None}, {"oidc_jwks_url": None}, {"oidc_jwks_url": "http://login.example/jwks"}],
)
def test_half_a_provider_is_no_setting(changes: dict[str, Any]) -> None:
    whole = {"oidc_issuer": ISSUER, "oidc_audience": "peelbound", "oidc_jwks_url": "https://login.example/jwks"}
    Settings(**whole)
    with pytest.raises(ValidationError):
        Settings(**(whole | changes))
