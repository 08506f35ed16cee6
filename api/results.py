"""What an audit published: its manifest, and the files that the manifest names."""

from peelbound.api.context import Context
from peelbound.api.errors import ArtifactNotFound, ReportNotAvailable
from peelbound.service.schemas.base import WireModel

REPORT = "report.json"


class Artifact(WireModel):
    """One entry of the manifest."""

    name: str
    key: str
    bytes: int
    sha256: str
    media_type: str


class Manifest(WireModel):
    """The object whose publication ended the audit: everything that the audit keeps."""

    artifacts: list[Artifact]


def manifest(context: Context, tenant: str, audit_id: str) -> Manifest:
    """The published manifest.

    Raises:
        AuditNotFound: there is no such audit.
        ReportNotAvailable: it has not succeeded, or not yet.
    """
    key = context.audits.manifest_key(tenant, audit_id)
    if key is None:
        state = context.audits.get(tenant, audit_id).state
        raise ReportNotAvailable(
            f"Audit {audit_id} is {state}.",
            remedy="Its `problem` says why." if state.ended else "Wait until it has succeeded.",
            state=state,
        )
    return Manifest.model_validate_json(context.store.get(key), extra="ignore")


def artifact(context: Context, tenant: str, audit_id: str, name: str) -> Artifact:
    """One published file.

    Raises:
        AuditNotFound, ReportNotAvailable: as for `manifest`.
        ArtifactNotFound: no file of this name.
    """
    published = manifest(context, tenant, audit_id).artifacts
    for entry in published:
        if entry.name == name:
            return entry
    names = ", ".join(entry.name for entry in published)
    raise ArtifactNotFound(f"Audit {audit_id} has no artifact {name!r}.", remedy=f"It has: {names}.")


def report_json(context: Context, tenant: str, audit_id: str) -> bytes:
    """The report's canonical bytes, checked against their checksum."""
    return context.store.get(artifact(context, tenant, audit_id, REPORT).key)
