"""The allow-list: what it lets through, and all the ways around it that it must not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelbound.service.uris import AllowList, LocalUri, S3Uri
from peelbound.workers.errors import UriRefused, UserError

POINTER = "/checkpoint"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """`data/` is allowed, `database/` and `secret/` are not; links lead between them."""
    for directory in ("data/model", "data/with space", "data/100%", "database", "secret/model"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "data" / "escape").symlink_to(tmp_path / "secret")
    (tmp_path / "data" / "inside").symlink_to(tmp_path / "data" / "model")
    (tmp_path / "data" / "chain").symlink_to(tmp_path / "data" / "escape")
    (tmp_path / "back").symlink_to(tmp_path / "data")
    return tmp_path


def test_lets_through_what_lies_under_a_prefix(tree: Path) -> None:
    allow = AllowList([f"file://{tree}/data/", "s3://models/runs/", "s3://open"])
    expected = LocalUri(tree / "data" / "model", (tree / "data",), POINTER)
    for uri in (f"{tree}/data/model", f"{tree}/data/model/", f"file://{tree}/data/model", f"{tree}/data/inside"):
        assert allow.resolve(uri, POINTER) == expected
    assert allow.resolve(f"file://{tree}/data/with%20space", POINTER) == allow.resolve(
        f"{tree}/data/with space", POINTER
    )
    assert allow.resolve(f"{tree}/data/100%", POINTER).uri == f"file://{tree}/data/100%25"
    assert allow.resolve(f"{tree}/data", POINTER).uri == f"file://{tree}/data"
    assert allow.resolve(f"{tree}/data/not/there", POINTER).uri == f"file://{tree}/data/not/there"
    assert allow.resolve("s3://models/runs", POINTER) == S3Uri("models", "runs", POINTER)
    assert allow.resolve("s3://models/runs/7/step 8/", POINTER) == S3Uri("models", "runs/7/step 8", POINTER)
    assert allow.resolve("s3://open", POINTER) == S3Uri("open", "", POINTER)
    assert allow.resolve("s3://open/x", POINTER).uri == "s3://open/x"


@pytest.mark.parametrize(
    "uri",
    [
        *("{tree}", "{tree}/database", "{tree}/dat", "{tree}/secret", "/", "{tree}/data2", "{tree}/DATA/model"),
        *("{tree}/data/../secret", "{tree}/data/model/../../secret", "{tree}/data/./model", "{tree}/data//model"),
        *("/{tree}/data/model", "file:/{tree}/data", "file://host{tree}/data", "file://localhost{tree}/data"),
        *("file://{tree}/data/%2e%2e/secret", "file://{tree}/data/%2E./secret", "file://{tree}/data/..%2fsecret"),
        *("file://{tree}/data%2Fmodel", "file://{tree}/data/a%00b", "file://{tree}/data/%ff", "{tree}/data/a\x00b"),
        *("file://{tree}/data/model?x=1", "file://{tree}/data/model#x", "{tree}/data/a\nb", "file://{tree}//data"),
        *(
            "{tree}/data/escape",
            "{tree}/data/escape/model",
            "{tree}/data/chain",
            "{tree}/back/escape",
        ),
        *("data/model", "./data", "~/data", "", " ", "FILE://{tree}/data", "http://models/runs", "gs://models/runs"),
        *(
            "s3://",
            "s3:///runs",
            "s3://models",
            "s3://models/run",
            "s3://models/runs2",
            "s3://models/",
            "s3:x",
        ),
        *("s3://models/runs/../x", "s3://models/runs//x", "s3://models/runs/./x", "s3://models/runs/%2e%2e/x"),
        *("s3://models/runs?versionId=1", "s3://models/runs#x", "s3://user@models/runs", "s3://models:80/runs"),
        *("s3://opens/x", "s3://Open/x", "s3://o/x", "s3://models/runs\\x", "S3://models/runs/x"),
    ],
)
def test_refuses_all_else(tree: Path, uri: str) -> None:
    allow = AllowList([f"{tree}/data", "s3://models/runs/", "s3://open"])
    with pytest.raises(UriRefused) as caught:
        allow.resolve(uri.format(tree=tree), POINTER)
    assert caught.value.pointer == POINTER
    assert caught.value.slug == "uri-refused"
    assert caught.value.remedy


def test_an_escape_is_refused_alike_whether_or_not_its_target_exists(tree: Path) -> None:
    allow = AllowList([f"{tree}/data"])
    messages = set()
    for name in ("model", "absent"):
        for place in (f"{tree}/secret/{name}", f"{tree}/data/escape/{name}"):
            with pytest.raises(UriRefused) as caught:
                allow.resolve(place, POINTER)
            messages.add(str(caught.value).replace(name, ""))
    assert len(messages) == 2


def test_an_allowed_prefix_may_itself_be_a_link(tree: Path) -> None:
    allow = AllowList([f"{tree}/back"])
    for uri in (f"{tree}/back/model", f"{tree}/data/model"):
        assert allow.resolve(uri, POINTER).uri == f"file://{tree}/data/model"


def test_nothing_is_allowed_by_default(tree: Path) -> None:
    for uri in (f"{tree}/data", "s3://open/x"):
        with pytest.raises(UriRefused, match="PEELBOUND_ALLOW"):
            AllowList([]).resolve(uri, POINTER)


def test_the_root_allows_every_file_and_no_bucket(tree: Path) -> None:
    allow = AllowList(["file:///"])
    assert allow.resolve(f"{tree}/data/escape", POINTER).uri == f"file://{tree}/secret"
    with pytest.raises(UriRefused):
        allow.resolve("s3://open/x", POINTER)


@pytest.mark.parametrize("prefix", ["data", "file://host/data", "https://x", "s3://", "/data/../x", ""])
def test_a_malformed_prefix_is_named(prefix: str) -> None:
    with pytest.raises(UserError, match="PEELBOUND_ALLOW") as caught:
        AllowList([prefix])
    assert caught.value.slug == "settings-invalid"


def test_follows_links_of_single_files(tree: Path) -> None:
    place = AllowList([f"{tree}/data"]).resolve(f"{tree}/data/model", POINTER)
    assert isinstance(place, LocalUri)
    (tree / "data" / "model" / "good").symlink_to("../with space/blob")
    (tree / "data" / "model" / "bad").symlink_to("../../secret/model")
    assert place.follow("good") == tree / "data" / "with space" / "blob"
    with pytest.raises(UriRefused, match="bad"):
        place.follow("bad")


PIECES = st.sampled_from(
    ["data", "secret", "escape", "inside", "chain", "back", "model", "..", ".", "", "%2e%2e", "%2f", "%2e", "a b", "?"]
)


@given(st.sampled_from(["", "file://"]), st.lists(PIECES, max_size=6))
def test_whatever_passes_lies_inside(tmp_path_factory: pytest.TempPathFactory, scheme: str, pieces: list[str]) -> None:
    root = tmp_path_factory.getbasetemp() / "property"
    if not root.exists():
        for directory in ("data/model", "secret/model"):
            (root / directory).mkdir(parents=True)
        (root / "data" / "escape").symlink_to(root / "secret")
        (root / "data" / "inside").symlink_to(root / "data" / "model")
        (root / "data" / "back").symlink_to(root)
    try:
        place = AllowList([f"{root}/data"]).resolve(f"{scheme}{root}/{'/'.join(pieces)}", POINTER)
    except UriRefused:
        return
    assert isinstance(place, LocalUri)
    assert place.path.resolve().is_relative_to(root / "data")
    assert AllowList([f"{root}/data"]).resolve(place.uri, POINTER) == place
