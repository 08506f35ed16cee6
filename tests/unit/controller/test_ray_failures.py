"""What a failure of Ray is called, and what is said to do about it."""

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RaySystemError,
    RayTaskError,
)

from peelbound.service.controller.ray_failures import typed
from peelbound.workers.errors import StorageFull

ALL = {
    "worker-lost": [ActorDiedError(), ActorUnavailableError("away", None), ObjectLostError("ab", None, "")],
    "out-of-memory": [OutOfMemoryError("full"), RayTaskError("f", "", MemoryError("4 GB"))],
    "worker-error": [RayTaskError("f", "", ZeroDivisionError("zero"))],
    "ray-error": [RaySystemError("gone"), GetTimeoutError("slow")],
}


@pytest.mark.parametrize(("slug", "error"), [(slug, error) for slug, errors in ALL.items() for error in errors])
def test_every_failure_has_a_name_and_a_remedy(slug: str, error: RayError) -> None:
    found = typed(error, "solve")
    assert found.slug == slug
    assert "solve" in found.detail
    assert found.remedy


def test_what_a_task_raised_on_purpose_comes_out_as_it_is() -> None:
    raised = StorageFull("no room", remedy="Make room.")
    assert typed(RayTaskError("f", "", raised), "solve") is raised
