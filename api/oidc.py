"""Tokens of an identity provider (OpenID Connect, or any issuer of JWTs that publishes its keys as a JWKS).

The issuer, the audience and the address of the keys come from the settings and never from a token. Only asymmetric
algorithms are taken, each key only with its own.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import anyio
import httpx2
import jwt

from peelbound.api.errors import IdentityProviderUnavailable, Unauthenticated
from peelbound.service.database.errors import TokenExpired
from peelbound.service.database.tokens import Identity
from peelbound.service.schemas.tenant import is_tenant
from peelbound.service.settings import Settings

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LEEWAY_SECONDS = 30
"""How far the provider's clock may be off."""
FRESH_SECONDS = 300.0
"""A key that the provider withdrew is taken no longer than this."""
STALE_SECONDS = 3600.0
"""… or than this while the provider cannot be reached."""
ASK_AGAIN_SECONDS = 10.0
"""Tokens that name unknown keys, which anybody can make, cause no more than one question in this time."""
ANSWER_SECONDS = 5.0
"""For all of the provider's answer, however slowly it comes."""
VERIFIED_AT_ONCE = 2
"""Signatures, each in a thread: those of large curves and keys take up to a millisecond, and anybody can send some."""
_MAX_JWKS_BYTES = 1 << 20
_REMEDY = "Get a new token from the identity provider."


class Keys:
    """The provider's public keys, by their id; belongs to one event loop.

    Anybody can make tokens that name unknown keys, so who waits for the provider holds no thread, and who brings a
    fresh key waits for nobody.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._asked = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._last_error = ""

    async def get(self, key_id: str) -> jwt.PyJWK | None:
        """The key, asked for anew where it is unknown or what we know is old; None if the provider has none.

        Raises:
            IdentityProviderUnavailable: the provider does not answer, and what we know is too old.
        """
        now = self._clock()
        if now - self._fetched > FRESH_SECONDS or key_id not in self._keys:
            if self._asking is None and now - self._asked >= ASK_AGAIN_SECONDS:
                self._asked = now
                self._asking = asyncio.create_task(self._ask())
            if self._asking is not None:
                await asyncio.shield(self._asking)  # one that hangs up must not take the answer from the others
        if now - self._fetched > STALE_SECONDS:
            raise IdentityProviderUnavailable(
                f"The identity provider's keys cannot be read: {self._last_error}",
                remedy="Try again later, or use a token of the service itself.",
            )
        return self._keys.get(key_id)

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                self._keys = await _fetch(self._url)
            self._fetched = self._asked
        except TimeoutError:
            self._last_error = f"no whole answer came within {ANSWER_SECONDS:g} s"
        except (httpx2.HTTPError, jwt.PyJWTError, ValueError) as error:
            self._last_error = f"{type(error).__name__}: {error}"
        finally:
            self._asking = None


async def _fetch(url: str) -> dict[str, jwt.PyJWK]:
    async with (
        httpx2.AsyncClient(timeout=ANSWER_SECONDS, follow_redirects=False, trust_env=False) as client,
        client.stream("GET", url) as response,
    ):
        response.raise_for_status()
        if response.is_redirect:
            raise ValueError("the address of the keys redirects")
        body = b""
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _MAX_JWKS_BYTES:
                raise ValueError("the key set is larger than 1 MiB")
    described = json.loads(body)
    if not isinstance(described, dict):
        raise ValueError("the key set is no JSON object")
    keys = jwt.PyJWKSet.from_dict(described).keys
    return {key.key_id: key for key in keys if key.key_id and key.public_key_use in (None, "sig")}


class IdentityProvider:
    """Says whose a JWT is, by the settings `oidc_*`."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._keys = Keys(settings.oidc_jwks_url or "", clock)
        self._threads = anyio.CapacityLimiter(VERIFIED_AT_ONCE)  # not those of the routes, which would wait behind it

    async def identify(self, token: str) -> Identity:
        """Whose the token is.

        Raises:
            Unauthenticated: it is not one of the provider's for this service, or names no tenant.
            TokenExpired: it was.
            IdentityProviderUnavailable: nobody can say.
        """
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = await self._keys.get(key_id) if isinstance(key_id, str) else None
            if key is None:
                raise Unauthenticated("The token is signed with no key of the identity provider.", remedy=_REMEDY)
            claims = await anyio.to_thread.run_sync(self._verified, token, key, limiter=self._threads)
        except jwt.ExpiredSignatureError as error:
            raise TokenExpired("The identity provider's token has expired.", remedy=_REMEDY) from error
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"The token is not valid here: {error}.", remedy=_REMEDY) from error
        return self._identity(claims)

    def _verified(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=list(ALGORITHMS),
            audience=self._settings.oidc_audience,
            issuer=self._settings.oidc_issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )

    def _identity(self, claims: dict[str, Any]) -> Identity:
        settings = self._settings
        named = claims.get(settings.oidc_tenant_claim)
        tenant = settings.oidc_tenants.get(str(named)) if settings.oidc_tenants else named
        if not isinstance(tenant, str) or not is_tenant(tenant):
            raise Unauthenticated(
                f"The token's claim {settings.oidc_tenant_claim!r} names no tenant of this service.",
                remedy="Have the identity provider send a tenant, or map its values by PEELBOUND_OIDC_TENANTS.",
            )
        held = claims.get(settings.oidc_scope_claim, [])
        words = held.split() if isinstance(held, str) else held if isinstance(held, list) else []
        scopes = {
            settings.oidc_scopes[word] for word in words if isinstance(word, str) and word in settings.oidc_scopes
        }
        subject = str(claims["sub"])[:200]
        return Identity(tenant, subject, frozenset(scopes), f"oidc:{subject}")
