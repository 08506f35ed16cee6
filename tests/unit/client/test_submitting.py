"""What a submission carries."""

import pytest

from peelbound import calls
from peelbound.errors import ProblemError
from peelbound.service.schemas.request import AuditRequest, Calibration

REQUEST = AuditRequest(checkpoint="/data/ckpt", calibration=Calibration(uri="/data/text.jsonl"))


def test_a_key_goes_into_its_header() -> None:
    assert calls.submit(REQUEST, "run-7 8000").headers["Idempotency-Key"] == "run-7 8000"
    assert "Idempotency-Key" not in calls.submit(REQUEST, None).headers


@pytest.mark.parametrize("key", ["läufe-7", "run\n7"])
def test_a_key_that_no_header_may_carry_is_refused_as_by_the_service(key: str) -> None:
    with pytest.raises(ProblemError) as refused:
        calls.submit(REQUEST, key)
    assert refused.value.problem.slug == "parameter-invalid"
