import gc

import pytest

from peelbound.workers.importing import large_imports


def test_the_collector_rests_while_something_large_is_imported_and_passes_over_it_afterwards() -> None:
    with large_imports():
        assert not gc.isenabled()
        imported: list[list[int]] = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert not any(found is imported[0] for found in gc.get_objects())


def test_it_works_again_after_an_import_that_fails() -> None:
    with pytest.raises(ImportError), large_imports():
        raise ImportError
    assert gc.isenabled()


def test_one_import_within_another_leaves_it_at_rest() -> None:
    with large_imports():
        with large_imports():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
