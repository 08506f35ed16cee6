"""What stands behind `type` in a problem document: a short text for people, by slug or by family of slugs."""

_TYPES = {
    "unauthenticated": "Every route but the probes and these pages needs a bearer token.",
    "scope-missing": "Tokens carry scopes: read (look), write (submit, cancel, delete, plan), admin (metrics, log).",
    "token-expired": "The token was valid once. Tokens are made with `peelbound token create`, or by the identity "
    "provider.",
    "rate-limited": "Each token may ask so many times per second, with bursts; Retry-After says how long to wait.",
    "tenant-active-limit": "A tenant may have so many audits waiting and running at once.",
    "tenant-busy": "A tenant may have so many plans, event streams and long polls under way at one replica.",
    "tenant-storage-limit": "A tenant may store so many bytes; delete audits to make room.",
    "identity-provider-unavailable": "The keys that sign the identity provider's tokens could not be read.",
    "link-token-too-powerful": "Links end up in histories and logs; they may only carry a token whose scope is read.",
    "host-refused": "The Host header must be one of the configured names, or a web page could reach the service "
    "through a name that it rebinds to this address.",
    "origin-refused": "Requests that a browser sends for a page of another origin are refused unless configured.",
    "preflight-refused": "A browser asked whether a page of another origin may send a request, which it may not.",
    "route-not-found": "The path names no route; /openapi.json lists them.",
    "method-not-allowed": "The route exists but does not take this method.",
    "body-unreadable": "The body must be one JSON document with Content-Type: application/json.",
    "body-too-large": "Bodies are limited; put large calibration data into a file and give its URI.",
    "request-invalid": "A field is missing, unknown, of the wrong type or out of range; `pointer` names the first, "
    "`errors` all of them.",
    "parameter-invalid": "A query parameter or header is out of range or malformed.",
    "cursor-invalid": "A cursor is only ever what `next_cursor` of a page with the same filters said.",
    "idempotency-conflict": "This Idempotency-Key was used with another body. Use a new key for a new audit.",
    "uri-refused": "Checkpoints and calibration data are read only from under the configured prefixes, after `..` and "
    "symbolic links are resolved.",
    "audit-not-found": "No audit of this id; it may have been deleted.",
    "audit-unreadable": "A later version of the service wrote the audit, and this replica is of an earlier one.",
    "audit-ended": "The audit has ended and cannot be cancelled any more.",
    "audit-not-ended": "Only an ended audit can be deleted; cancel it first.",
    "webhook-not-found": "No webhook of this id; it may have been deleted.",
    "delivery-not-found": "The webhook has no delivery of this id. Ended ones are kept for thirty days.",
    "webhook-disabled": "The webhook answered 410 Gone or was disabled by request; enable it to send messages again.",
    "webhook-limit": "A tenant may have so many webhooks; delete one that is no longer needed.",
    "webhook-url-refused": "Webhooks are sent by https to public addresses, and elsewhere only where the service's "
    "settings allow it.",
    "run-not-found": "No audit belongs to a run of this name.",
    "report-not-available": "Only an audit that succeeded has a report.",
    "artifact-not-found": "The audit published no file of this name.",
    "range-invalid": "The Range header cannot be read, or names no part of the file.",
    "object-missing": "A stored object is gone; it may just have been deleted.",
    "object-corrupt": "A stored object does not match its checksum. It is computed again when the audit is.",
    "plan-unavailable": "The plan could not be computed within its time limit.",
    "schema-too-old": "The database's schema is older than the service; whoever runs it must migrate it.",
    "schema-too-new": "The database's schema is newer than the service; whoever runs it must upgrade the service.",
    "database-unavailable": "The database did not answer; try again.",
    "replica-ending": "The replica was told to stop; others go on.",
    "lease-lost": "The controller that held the audit was lost, too often to try again.",
    "controller-ended": "The service that a command started for itself could not keep a controller up; `detail` says "
    "how it ended.",
    "request-unreadable": "An API of a later version took the audit, and no controller of that version came.",
    "settings-invalid": "The service's own settings are wrong; whoever runs it must mend them.",
    "database-url-invalid": "The service's own settings are wrong; whoever runs it must mend them.",
    "value-refused": "A value holds what the database cannot keep, such as a NUL character.",
    "token-invalid": "A token of this name exists, or a scope is unknown.",
    "deadline-exceeded": "The audit had not ended `deadline_seconds` after its submission.",
    "worker-error": "A worker process failed in a way it did not expect; the service's log holds the traceback.",
    "ray-error": "The cluster that solves failed; the audit is tried again.",
    "workers-unavailable": "The cluster did not start the workers in time: it lacks the CPUs or GPUs they ask for.",
    "workers-differ": "A node of the cluster has another processor or other versions than the controller: results made "
    "there could differ in a bit.",
    "ray-token-refused": "The cluster that solves did not take the controller's token; whoever runs it must mend that.",
    "bad-request": "The request cannot be carried out as it stands; `detail` says why.",
    "controller-stopping": "The controller was told to stop and handed the audit back; another one goes on with it.",
    "worker-lost": "A worker process or its node died; the audit is tried again.",
    "out-of-memory": "Memory ran out that others had taken: other processes of the node or of its GPU. The audit is "
    "tried again.",
    "memory-exceeded": "Some work of the audit needs more memory than any worker has: `bytes_needed` and "
    "`bytes_available` say how much. Use a smaller grain or a shorter sequence length, or larger devices.",
    "infrastructure": "Something around the audit failed; it is tried again with backoff.",
    "cancelled": "The audit was cancelled.",
    "internal": "The service met an error that it did not expect; its log holds the traceback.",
}
_FAMILIES = {
    "checkpoint": "The checkpoint cannot be audited as it is: `detail` names the file, tensor or block, `remedy` what "
    "to do.",
    "config": "The checkpoint's config.json cannot be used: `detail` names the entry.",
    "model": "The architecture cannot be peeled (yet): a decoder-only transformer of independent blocks is needed.",
    "calibration": "The calibration data cannot be used: they are empty, unreadable, too small or unfit for the model.",
    "request": "The request contradicts itself or the checkpoint; `pointer` names the field.",
    "solver": "A solver ended without a usable solution: `detail` says which and how; `remedy` what to change.",
    "storage": "Object storage refused, did not answer, or is full.",
    "weights": "The weights are not of the weight class that the request names, or its grids cannot be: `detail` says "
    "what was found, `remedy` what to say instead.",
    "uri": "The URI is malformed or not allowed.",
}


def describe(slug: str) -> str | None:
    """The text for a slug, or None if there is no such type."""
    return _TYPES.get(slug) or _FAMILIES.get(slug.partition("-")[0])
