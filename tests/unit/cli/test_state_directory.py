"""The state directory: its owner's alone, and no directory of another use is touched."""

import stat
from pathlib import Path

import pytest

from peelbound.local import StartFailed, make_private
from peelbound.service.database.engine import make_engine


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A directory that others can look into."""
    directory = tmp_path / "there"
    directory.mkdir()
    directory.chmod(0o755)
    return directory


def test_a_directory_that_is_made_is_private(tmp_path: Path) -> None:
    make_private(tmp_path / "new" / "state")
    assert mode(tmp_path / "new" / "state") == 0o700


@pytest.mark.parametrize(
    "files",
    [
        pytest.param([], id="empty"),
        pytest.param(["lost+found"], id="file-system"),
        pytest.param(["objects"], id="store"),
        pytest.param(["lock", "notes"], id="service"),
        pytest.param(["peelbound.db", "peelbound.db-wal"], id="replica"),
        pytest.param(["own-audits.lock", "controller-of-calls.log", "objects"], id="calls"),
    ],
)
def test_one_that_is_empty_or_ours_is_closed_to_others(there: Path, files: list[str]) -> None:
    for name in files:
        (there / name).touch()
    make_private(there)
    assert mode(there) == 0o700


def test_one_that_holds_other_files_is_refused_and_left_as_it_is(there: Path) -> None:
    (there / "index.html").touch()
    (there / "objects").mkdir()
    with pytest.raises(StartFailed, match=f"chmod 700 {there}"):
        make_private(there)
    assert mode(there) == 0o755
    there.chmod(0o700)
    make_private(there)
    assert mode(there) == 0o700


def test_one_that_is_made_for_a_database_is_private(tmp_path: Path) -> None:
    make_engine(f"sqlite:///{tmp_path / 'new' / 'peelbound.db'}").dispose()
    assert mode(tmp_path / "new") == 0o700


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartFailed, match="cannot be a private state directory"):
        make_private(tmp_path / "file")
