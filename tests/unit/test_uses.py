"""What a collection keeps in memory of what audits used."""

import tracemalloc
from pathlib import Path

from peelbound.service.retention.uses import Lists, keep_list
from peelbound.service.storage.directory import DirectoryStore


def test_names_that_many_audits_share_are_kept_once(tmp_path: Path) -> None:
    """A tenant's audits of one run use the same results, each of them hundreds."""
    store = DirectoryStore(tmp_path)
    names = [f"tenants/acme/results/corrected/{n:064x}" for n in range(200)]
    folders = [f"tenants/acme/audits/{n:026}/1" for n in range(100)]
    for folder in folders:
        keep_list(store, folder, names)
    lists = Lists(store)
    tracemalloc.start()
    one = lists.used([f"{folders[0]}/manifest.json"])
    before = tracemalloc.get_traced_memory()[0]
    every = lists.used(f"{folder}/manifest.json" for folder in folders)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert one == every == set(names)
    assert after < 2 * before
