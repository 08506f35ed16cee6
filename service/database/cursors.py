"""Opaque cursors: where a page of audits ended."""

from base64 import urlsafe_b64decode, urlsafe_b64encode

from ulid import ULID

from peelbound.service.database.errors import CursorInvalid


def encode_cursor(audit_id: str) -> str:
    """The cursor after this audit: its ULID's 16 bytes in URL-safe base64."""
    return urlsafe_b64encode(ULID.from_str(audit_id).bytes).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """The audit id that a cursor names.

    Raises:
        CursorInvalid: `encode_cursor` never returned this.
    """
    try:
        audit_id = str(ULID(urlsafe_b64decode(cursor + "==")))
    except ValueError as error:
        raise _invalid(cursor) from error
    # The decoder skips foreign characters and ignores spare bits: only the one spelling that we give is taken.
    if encode_cursor(audit_id) != cursor:
        raise _invalid(cursor)
    return audit_id


def _invalid(cursor: str) -> CursorInvalid:
    return CursorInvalid(
        f"The cursor {cursor[:64]!r} is not one of ours.",
        remedy="Take next_cursor from the page before, or leave the cursor out to begin with the newest audit.",
    )
