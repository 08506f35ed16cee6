"""Whose tokens requests bring: those of one moment are looked up by one query.

Nothing is remembered from one query to the next, so a token that is revoked opens nothing from then on.
"""

import asyncio

from peelbound.api.batches import Batches
from peelbound.service.database.errors import TokenExpired
from peelbound.service.database.tokens import Identity, Tokens


class Callers:
    """Gathers requests that bring tokens of ours; belongs to one event loop."""

    def __init__(self, tokens: Tokens, turn: asyncio.Lock) -> None:
        """Bind; `turn` is shared with those who ask afterwards (see `Batches`)."""
        self._found = Batches(tokens.find_all, turn)

    async def of(self, secret: str) -> Identity | None:
        """Whom the secret belongs to; None if to nobody.

        Raises:
            TokenExpired: it did belong to somebody.
            DatabaseUnavailable: nobody can say.
        """
        found = await self._found.of(secret)
        if isinstance(found, TokenExpired):
            raise found
        return found
