"""Another distribution: English text that lies on the machine, for models that were trained on code."""

import hashlib
import json
import sysconfig
from pathlib import Path

PLACES = ("/usr/share/doc", "/usr/share/vim", "/usr/share/perl", sysconfig.get_paths()["purelib"])
ENDINGS = (".txt", ".rst", ".md")
_MOST = 400
_LETTERS = 0.7


def prose(path: Path) -> Path:
    """Write documentation texts found on this machine as JSON lines, once; manuals and release notes, no code."""
    if path.exists():
        return path
    texts = {}
    for place in PLACES:
        for file in sorted(Path(place).rglob("*")):
            if file.suffix in ENDINGS and file.is_file() and 2000 < file.stat().st_size < 200_000:
                text = file.read_text(encoding="utf-8", errors="replace")[:20_000]
                if sum(c.isalpha() or c == " " for c in text) > _LETTERS * len(text):
                    texts[hashlib.sha256(text.encode()).hexdigest()] = text
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = [texts[digest] for digest in sorted(texts)[:_MOST]]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in chosen), encoding="utf-8")
    return path
