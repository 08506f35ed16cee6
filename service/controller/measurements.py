"""Results by content: what was solved or measured once, with all that it depends on, is never computed again.

A result whose bytes are damaged counts as absent: it is computed and written anew, or one bad sector would fail every
audit that ever asks for it.
"""

import json
import logging
from collections.abc import Callable
from typing import Any

from peelbound.service.storage.base import ObjectStore
from peelbound.workers.errors import ObjectCorrupt, ObjectMissing
from peelbound.workers.keys import Json, canonical, key_of
from peelbound.workers.results import load_measurements

log = logging.getLogger(__name__)


def unannounced(_name: str) -> None:
    """Tells nobody that a result is used: for stores from which nothing is ever collected."""


class Measurements:
    """The results of one audited model on one calibration set, in object storage.

    The key of a result hashes its kind, what it was asked for, and the identity that all of them share: checkpoint,
    splits, grain and platform. Solutions are the workers' alone; what is measured also depends on the service's own
    sources, which sum by document, and its key on their hash.
    """

    def __init__(
        self, store: ObjectStore, tenant: str, identity: Json, sources: str, use: Callable[[str], None]
    ) -> None:
        """Bind to a model and its data.

        Args:
            store: object storage.
            tenant: whose results these are.
            identity: what every solution depends on.
            sources: hash of the code that measures.
            use: is told of each result before it is looked for or made.
        """
        self.store, self.tenant, self.identity, self.sources, self._use = store, tenant, identity, sources, use

    def key(self, kind: str, asked: Json) -> str:
        """Object key, without suffix, of a result, which is announced: nobody can look for it without its key."""
        key = f"tenants/{self.tenant}/results/{kind}/{key_of([self.identity, kind, asked])}"
        self._use(key)
        return key

    def _measured_key(self, kind: str, asked: Json) -> str:
        return f"{self.key(kind, [self.sources, asked])}.json"

    def solution(self, key: str) -> dict[str, Any] | None:
        """The measurements beside a stored solution, or None where it is not solved yet, or not whole any more."""
        try:
            found = load_measurements(self.store, key)
            if found is not None and self.store.info(f"{key}.safetensors") is None:
                log.warning("the solution %s has lost its tensors: solving it again", key)
                return None
        except ObjectCorrupt as error:
            log.warning("solving again: %s", error)
            return None
        return found

    def find(self, kind: str, asked: Json) -> Any:
        """A stored measurement, or None where there is none, or none that is whole."""
        try:
            return json.loads(self.store.get(self._measured_key(kind, asked)))
        except ObjectMissing:
            return None
        except ObjectCorrupt as error:
            log.warning("measuring again: %s", error)
            return None

    def measured(self, kind: str, asked: Json, measure: Callable[[], Any]) -> Any:
        """A stored measurement, made and stored first where there is none.

        The value passes through JSON either way, so that a found one equals a fresh one to the last bit.
        """
        found = self.find(kind, asked)
        if found is not None:
            return found
        data = canonical(measure())
        self.store.put(self._measured_key(kind, asked), data, media_type="application/json")
        return json.loads(data)
