"""Who is asking, and what they may do.

Programs send `Authorization: Bearer …`. Browsers follow a link with `?token=…` once and then carry a cookie, which is
only ever good for reading: it must be a token with the scope `read` and nothing else, and only GET honours it.
"""

import re
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from fastapi.security.base import SecurityBase
from fastapi.security.utils import get_authorization_scheme_param

from peelbound.api.context import Context
from peelbound.api.errors import ScopeMissing, Unauthenticated
from peelbound.service.database.errors import TokenExpired
from peelbound.service.database.log import Actor
from peelbound.service.database.tokens import Identity

COOKIE = "peelbound_read"
READ_ONLY = frozenset({"read"})
_OURS = re.compile(r"peel_[A-Za-z0-9_-]{43}")
_A_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_LONGEST_TOKEN = 16_384

_BEARER = HTTPBearer(description="A token of the service; scopes: read, write, admin.")


async def page_identity(context: Context, request: Request) -> Identity | None:
    """The reader whose cookie the request brings, if any."""
    secret = request.cookies.get(COOKIE)
    if not secret or request.method != "GET" or not _OURS.fullmatch(secret):
        return None
    try:
        identity = await context.callers.of(secret)
    except TokenExpired:
        return None
    return identity if identity is not None and identity.scopes == READ_ONLY else None


async def _bearer_identity(context: Context, secret: str) -> Identity | None:
    """Whom the secret belongs to: one of our tokens, or of the identity provider's where there is one.

    What cannot be either costs no query.
    """
    if _OURS.fullmatch(secret):
        return await context.callers.of(secret)
    if context.provider is not None and len(secret) <= _LONGEST_TOKEN and _A_JWT.fullmatch(secret):
        return await context.provider.identify(secret)
    return None


async def identify(context: Context, request: Request) -> Identity:
    """Whose the request is, by its bearer token or else its cookie.

    Raises:
        Unauthenticated: it brings neither, or one that nobody knows.
        TokenExpired: it brings one that was known.
        IdentityProviderUnavailable: it brings one that cannot be verified now.
    """
    scheme, secret = get_authorization_scheme_param(request.headers.get("Authorization"))
    bearer = secret if scheme.lower() == "bearer" else ""
    identity = await (_bearer_identity(context, bearer) if bearer else page_identity(context, request))
    if identity is None:
        raise Unauthenticated(
            "The token is not known." if bearer else "The request brings no token.",
            remedy="Send Authorization: Bearer TOKEN; `peelbound up` keeps its token in the file `token` of its "
            "state directory, `peelbound token create` makes others.",
        )
    return identity


class _Holder(SecurityBase):
    """Whoever brings a bearer token with a scope. To FastAPI it is a security scheme, for the OpenAPI document.

    One dependency, and `async` though it waits for nothing: each that a route has costs as much as a middleware, and a
    plain function would go through a thread.
    """

    def __init__(self, scope: str) -> None:
        self.model, self.scheme_name = _BEARER.model, _BEARER.scheme_name
        self._scope = scope

    async def __call__(self, request: Request) -> Identity:
        identity: Identity = request.scope["state"]["identity"]  # the gate left it here, before the body was read
        if self._scope not in identity.scopes:
            held = ", ".join(sorted(identity.scopes)) or "none"
            raise ScopeMissing(
                f"This needs the scope {self._scope}; the token has: {held}.", remedy="Use another token."
            )
        return identity


async def _acting(request: Request) -> Actor:
    identity: Identity = request.state.identity
    return Actor(identity.id, identity.name, request.state.request_id)


Reader = Annotated[Identity, Depends(_Holder("read"))]
Writer = Annotated[Identity, Depends(_Holder("write"))]
Admin = Annotated[Identity, Depends(_Holder("admin"))]
Acting = Annotated[Actor, Depends(_acting)]
"""Who is asking, for the action log."""
