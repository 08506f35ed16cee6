"""Publication: artifacts, then the manifest that lists them, then the guarded update that makes them the audit's."""

import hashlib

from peelbound.service.controller.audit import Outcome, parse_report
from peelbound.service.database.leases import Claim, Leases
from peelbound.service.retention.uses import keep_list
from peelbound.service.storage.base import ObjectStore
from peelbound.workers.keys import canonical

JSON = "application/json"


def publish(outcome: Outcome, claim: Claim, leases: Leases, store: ObjectStore, used: list[str]) -> bool:
    """Write the results of an attempt and publish them, with the names of the results by content that it used.

    A controller that was fenced out leaves its objects behind, referenced by nothing.

    Returns:
        Whether they are now the audit's results; False when the claim was lost or the audit cancelled.
    """
    folder = f"tenants/{claim.tenant}/audits/{claim.audit_id}/{claim.attempt}"
    artifacts = []
    for name, data in (("report.json", outcome.report), ("timings.json", canonical(outcome.timings))):
        key = f"{folder}/{name}"
        store.put(key, data, media_type=JSON)
        digest = hashlib.sha256(data).hexdigest()
        artifacts.append({"name": name, "key": key, "bytes": len(data), "sha256": digest, "media_type": JSON})
    keep_list(store, folder, used)
    manifest = f"{folder}/manifest.json"
    store.put(manifest, canonical({"artifacts": artifacts}), media_type=JSON)
    return leases.succeed(claim, manifest, parse_report(outcome.report).summary)
