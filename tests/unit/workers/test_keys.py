"""Identity of results."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import peelbound.workers
from peelbound.workers.keys import canonical, compiler_fingerprint, key_of, platform_fingerprint, seed_of, source_hash

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
).filter(lambda value: not _has_surrogate(value))


def _has_surrogate(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


@settings(deadline=None)
@given(json_values)
def test_canonical_json_comes_back_to_the_last_bit(value: object) -> None:
    data = canonical(value)  # type: ignore[arg-type]
    assert json.loads(data) == value
    assert canonical(json.loads(data)) == data


@settings(deadline=None)
@given(st.dictionaries(st.text(alphabet="abcäß", min_size=1), st.integers(), min_size=2), st.randoms())
def test_the_order_of_members_makes_no_difference(value: dict[str, int], shuffler: object) -> None:
    items = list(value.items())
    shuffler.shuffle(items)  # type: ignore[attr-defined]
    assert canonical(dict(items)) == canonical(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical(value)  # type: ignore[arg-type]


def test_keys_are_what_they_always_were() -> None:
    """Results of earlier versions are found under these."""
    value = {"b": [1, 2.5, None, True], "a": "ä"}
    assert canonical(value) == '{"a":"ä","b":[1,2.5,null,true]}'.encode()
    assert key_of(value) == "26d99402c903f4cd8796458b9c84dff664e230343754991756438993a710b66a"


@settings(deadline=None)
@given(json_values, json_values)
def test_other_values_have_other_keys(one: object, other: object) -> None:
    assert (key_of(one) == key_of(other)) == (canonical(one) == canonical(other))  # type: ignore[arg-type]


def test_keys_tell_numbers_from_text_and_depth_from_length() -> None:
    values: list[Any] = [1, "1", [1], [[1]], [1, 1], [11], 1.0, True, None, "", [], {}]
    keys = [key_of(v) for v in values]
    assert len(set(keys)) == len(keys)


def test_seeds_fit_every_generator_and_differ_by_what_they_are_for() -> None:
    seeds = {seed_of(0, "block", n) for n in range(1, 200)} | {seed_of(1, "block", n) for n in range(1, 200)}
    assert len(seeds) == 398
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, "block", 1) == seed_of(0, "block", 1)


def test_the_platform_names_all_that_bits_depend_on() -> None:
    fingerprint = platform_fingerprint("cpu")
    assert fingerprint["workers"] == source_hash("workers")
    assert fingerprint["device"] == "cpu"
    assert {"isa", "machine", "python", "torch", "transformers", "numpy"} < set(fingerprint)
    assert all(fingerprint.values())


def test_compiled_code_is_told_apart_by_its_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'c++ (ours) 1.2'\necho 'free software'\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert compiler_fingerprint("cpu") == "c++ (ours) 1.2"
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert compiler_fingerprint("cpu") == ""


def hash_of_copy(root: Path) -> str:
    """The hash that a copy of the package finds of its own `workers`, from a process of its own."""
    program = "import importlib.util as u, sys; s = u.spec_from_file_location('keys', sys.argv[1]); "
    program += "m = u.module_from_spec(s); s.loader.exec_module(m); print(m.source_hash('workers'))"
    # -S and no bytecode: start fast, leave nothing behind.
    command = [sys.executable, "-S", "-B", "-c", program, str(root / "workers" / "keys.py")]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ}).stdout.strip()


def test_the_hash_of_the_sources_changes_with_each_of_them_and_with_nothing_else(tmp_path: Path) -> None:
    assert peelbound.workers.__file__ is not None
    sources = Path(peelbound.workers.__file__).parent.resolve()
    copy = tmp_path / "workers"
    shutil.copytree(sources, copy, ignore=shutil.ignore_patterns("__pycache__"))
    whole = hash_of_copy(tmp_path)
    assert whole == source_hash("workers")

    (copy / "notes.md").write_text("no source")
    assert hash_of_copy(tmp_path) == whole

    solver = copy / "solver.py"
    text = solver.read_text()
    solver.write_text(text.replace("0.5 *", "0.6 *"))
    assert hash_of_copy(tmp_path) != whole
    solver.write_text(text)
    assert hash_of_copy(tmp_path) == whole

    part = copy / "checkpoint" / "part.py"
    part.rename(copy / "checkpoint" / "piece.py")
    assert hash_of_copy(tmp_path) != whole
