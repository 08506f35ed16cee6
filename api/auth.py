"""Who is asking, and what they may do.

Programs send `Authorization: Bearer …`. Browsers follow a link with `?token=…` once and then carry a cookie, which is
only ever good for reading: it must be a token with the scope `read` and nothing else, and only GET honours it.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
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

_bearer = HTTPBearer(auto_error=False, description="A token of the service; scopes: read, write, admin.")


def page_identity(context: Context, request: Request) -> Identity | None:
    """The reader whose cookie the request brings, if any."""
    secret = request.cookies.get(COOKIE)
    if not secret or request.method != "GET" or not _OURS.fullmatch(secret):
        return None
    try:
        identity = context.tokens.find(secret)
    except TokenExpired:
        return None
    return identity if identity is not None and identity.scopes == READ_ONLY else None


def bearer_identity(context: Context, secret: str) -> Identity | None:
    """Whom the secret belongs to: one of our tokens, or of the identity provider's where there is one.

    What cannot be either costs no query.
    """
    if _OURS.fullmatch(secret):
        return context.tokens.find(secret)
    if context.provider is not None and len(secret) <= _LONGEST_TOKEN and _A_JWT.fullmatch(secret):
        return context.provider.identify(secret)
    return None


def identify(context: Context, request: Request) -> Identity:
    """Whose the request is, by its bearer token or else its cookie.

    Raises:
        Unauthenticated: it brings neither, or one that nobody knows.
        TokenExpired: it brings one that was known.
        IdentityProviderUnavailable: it brings one that cannot be verified now.
    """
    scheme, secret = get_authorization_scheme_param(request.headers.get("Authorization"))
    bearer = secret if scheme.lower() == "bearer" else ""
    identity = bearer_identity(context, bearer) if bearer else page_identity(context, request)
    if identity is None:
        raise Unauthenticated(
            "The token is not known." if bearer else "The request brings no token.",
            remedy="Send Authorization: Bearer TOKEN; `peelbound up` keeps its token in the file `token` of its "
            "state directory, `peelbound token create` makes others.",
        )
    return identity


# `async`, though nothing is awaited: FastAPI would send each plain function through a thread.
async def _identity(
    request: Request, _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Identity:
    identity: Identity = request.state.identity  # the gate left it here, before the body was read
    return identity


def _with(scope: str) -> Callable[[Identity], Awaitable[Identity]]:
    async def check(identity: Annotated[Identity, Depends(_identity)]) -> Identity:
        if scope not in identity.scopes:
            held = ", ".join(sorted(identity.scopes)) or "none"
            raise ScopeMissing(f"This needs the scope {scope}; the token has: {held}.", remedy="Use another token.")
        return identity

    return check


async def _acting(request: Request, identity: Annotated[Identity, Depends(_identity)]) -> Actor:
    return Actor(identity.id, identity.name, request.state.request_id)


Reader = Annotated[Identity, Depends(_with("read"))]
Writer = Annotated[Identity, Depends(_with("write"))]
Admin = Annotated[Identity, Depends(_with("admin"))]
Acting = Annotated[Actor, Depends(_acting)]
"""Who is asking, for the action log."""
