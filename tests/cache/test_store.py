from pathlib import Path

import pytest

from cache.files import replacing
from cache.store import Stage, Store
from stal_data.errors import InputError, NotFoundError


def test_a_store_is_made_only_when_asked_for(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no store at"):
        Store.open(tmp_path / "s")
    created = Store.open(tmp_path / "s", create=True)
    assert Store.open(f"file://{tmp_path / 's'}") == created


def test_other_urls_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gs://bucket/store' is neither a folder nor s3://"):
        Store.open("gs://bucket/store")
    with pytest.raises(InputError, match="is neither a folder nor s3://"):
        Store.open(Path("s3://bucket/store"), create=True)
    for text in ("file://~/store", "file://localhost/store", "file://store"):
        with pytest.raises(InputError, match="must be file:///FOLDER with three slashes"):
            Store.open(text, create=True)
    with pytest.raises(InputError, match="--stage is for a store in a bucket"):
        Store.open(tmp_path, stage=Stage(folder=tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Store.open(tmp_path / "file", create=True)
    with pytest.raises(InputError, match=r"file/below' cannot be made .*Not a directory"):
        Store.open(tmp_path / "file" / "below", create=True)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"dangling' cannot be made .*File exists"):
        Store.open(tmp_path / "dangling", create=True)


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", ""])
def test_names_cannot_leave_the_store(store: Store, name: str) -> None:
    with pytest.raises(InputError):
        store.features_dir(name, "train")
    with pytest.raises(InputError):
        store.proposals_dir("street", name)
    with pytest.raises(InputError):
        store.find("features", name, None, "*")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError), replacing(path) as partial:
        fail(partial)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a\0b", "round", "x" * 5000])
def test_weights_whose_name_is_no_path_are_named(store: Store, name: str) -> None:
    store.weights_dir.mkdir()
    (store.weights_dir / "round").symlink_to("round")
    with pytest.raises(InputError, match=r"slowfast .* cannot be a path; give one relative to"):
        store.weights_file("slowfast", name)
