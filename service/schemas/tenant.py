"""What a tenant may be called, and for how long its audits may be kept."""

import re

LONGEST_KEPT_DAYS = 36_500
"""A hundred years: a date that lies back some 2,000 is none. What is to be kept for longer is kept for ever."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def is_tenant(name: str) -> bool:
    """Whether the name may be a tenant's.

    Tenants are a folder of the object store each, so a name holds no separators or dots, and no capitals, which some
    file systems do not tell from small letters.
    """
    return _NAME.fullmatch(name) is not None
