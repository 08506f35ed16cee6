"""What a request's body must pass before its fields are looked at.

Pydantic describes every fault that it finds, in about 1.5 KB of memory each: two megabytes of faults would take the
process a gigabyte and twenty seconds. So lists in requests are left at their first fault (`fail_fast`), and objects
must not have more members than any of ours.
"""

from typing import Annotated, TypeVar

from pydantic import BeforeValidator

MOST_MEMBERS = 100
"""Of one object; the largest that a request may hold are labels, 32."""

Body = TypeVar("Body")


def _few_members(body: object) -> object:
    objects = [body]
    while objects:
        each = objects.pop()
        if isinstance(each, dict):
            if len(each) > MOST_MEMBERS:
                raise ValueError(f"an object has {len(each)} members, more than the {MOST_MEMBERS} that any may have")
            objects.extend(each.values())
    return body


Sent = Annotated[Body, BeforeValidator(_few_members)]
"""A body as a client sent it, for routes that take one."""
