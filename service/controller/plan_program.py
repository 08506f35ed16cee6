"""`python -m peelbound.service.controller.plan_program`: an `AuditPlan`, or else a `Problem`, for a request's JSON.

The API runs it so, since planning reads configs through libraries that the API keeps out.
"""

import sys

from peelbound.service.problems import as_problem
from peelbound.service.schemas.request import AuditRequest
from peelbound.service.settings import Settings
from peelbound.workers.errors import PeelboundError
from peelbound.workers.importing import large_imports


def main() -> int:
    """Answer one request, of standard input; the exit status is 0 for a plan and 1 for a problem."""
    with large_imports():
        from peelbound.service.controller.planning import plan_request
    try:
        plan = plan_request(AuditRequest.model_validate_json(sys.stdin.buffer.read()), Settings())
    except PeelboundError as error:
        sys.stdout.write(as_problem(error).model_dump_json())
        return 1
    sys.stdout.write(plan.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
