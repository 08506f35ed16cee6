"""Whether check has the documents that a claim takes; below that a report holds estimates alone."""

from dataclasses import dataclass

from peelbound.service.words import Phrase, compose, plain


@dataclass(frozen=True)
class CheckSize:
    """The documents of check."""

    documents: int
    needed: int
    """With fewer nothing is tested: an interval from so few documents is too narrow to rest a sentence on."""

    @property
    def tests(self) -> bool:
        """Whether sentences may rest on intervals."""
        return self.documents >= self.needed

    def too_few(self) -> list[Phrase]:
        """The sentence that goes before untested numbers."""
        if self.tests:
            return []
        return [
            compose(
                "Estimates only: check has {} documents, {} are needed to test anything.",
                plain("/calibration/splits/check/documents", self.documents),
                plain("/settings/thresholds/check_documents", self.needed),
            )
        ]
