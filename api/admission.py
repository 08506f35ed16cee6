"""What can be refused about a request before anything is read."""

from peelbound.service.schemas.request import AuditRequest
from peelbound.service.uris import AllowList
from peelbound.workers.errors import RequestError

_PAGE = "/report.html"
"""What `GET /v1/runs/{run}/report.html` has after a run's name."""


def admit(request: AuditRequest, allow: AllowList) -> None:
    """Check the run's name, the URIs against the allow-list and the target maps against themselves.

    Whether the anchors fit the model's depth is known only once its config is read.

    Raises:
        UriRefused: a URI is malformed or not under an allowed prefix.
        RequestError: a target map names an anchor twice or one below 1, or the run's name cannot be asked for.
    """
    if request.run is not None and request.run.endswith(_PAGE):
        raise RequestError(
            f"{request.run!r} ends in {_PAGE}, which is the path of another run's page.",
            remedy="Give the run another name.",
            pointer="/run",
            slug="request-run-reserved",
        )
    allow.resolve(request.checkpoint, "/checkpoint")
    if request.baseline is not None:
        allow.resolve(request.baseline, "/baseline")
    if request.calibration.uri is not None:
        allow.resolve(request.calibration.uri, "/calibration/uri")
    for row, anchors in enumerate(request.options.maps or ()):
        for column, anchor in enumerate(anchors):
            pointer = f"/options/maps/{row}/{column}"
            if anchor < 1:
                raise RequestError(
                    f"Anchor {anchor} is below 1; blocks are numbered 1..K.",
                    remedy="Use the numbers of trained states 1..K.",
                    pointer=pointer,
                    slug="request-anchor-out-of-range",
                )
            if anchor in anchors[:column]:
                raise RequestError(
                    f"Anchor {anchor} is named twice in {anchors}.",
                    remedy="Name each anchor once.",
                    pointer=pointer,
                    slug="request-anchor-repeated",
                )
