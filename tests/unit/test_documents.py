"""The documents hang together: links lead somewhere, and every note is in the index."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTES = ROOT / "docs" / "contributing"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])


def links(document: Path) -> set[str]:
    """Targets of the document's links into the repository, without fragments."""
    found = re.findall(r"\]\(([^)\s#]+)[^)]*\)", document.read_text(encoding="utf-8"))
    return {target for target in found if "://" not in target and not target.startswith("mailto:")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    broken = [target for target in sorted(links(document)) if not (document.parent / target).exists()]
    assert broken == []


def test_every_note_for_contributors_is_in_their_index() -> None:
    notes = {path.name for path in NOTES.glob("*.md")} - {"README.md"}
    assert len(notes) > 1
    assert notes - links(NOTES / "README.md") == set()
