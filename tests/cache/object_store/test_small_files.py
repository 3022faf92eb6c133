"""Published splits and proposals in a bucket, and the commands that look at a store."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cache.feature_store import list_feature_sets
from cache.proposal_store import list_proposals, open_proposals, write_proposals
from cache.split_store import load_split, publish_split
from cache.store import Store
from cli.commands.cache import cache
from cli.commands.precompute import precompute
from stal_data.dataset import Split
from stal_data.errors import NotFoundError, StalError
from tests.cache.object_store.conftest import URL, OpenStore
from tests.cache.object_store.s3_server import FaultProxy
from tests.cache.object_store.test_sets_in_a_bucket import change, files, objects
from tests.cache.test_any_store import proposals


def test_a_split_that_one_machine_publishes_is_there_for_the_others(
    machine: OpenStore, split: Split, proxy: FaultProxy
) -> None:
    published = publish_split(machine("one"), split)
    other = machine("other")
    assert load_split(other, "street", "train").digest == published.digest
    proxy.log.clear()
    publish_split(other, split)
    assert not [request for request in proxy.log if request.method == "PUT"]
    with pytest.raises(NotFoundError, match=r"street/test is not published in 's3://cache/some/store'"):
        load_split(other, "street", "test")


def test_proposals_follow_the_bucket(machine: OpenStore) -> None:
    one, other = machine("one"), machine("other")
    for score in (0.5, 0.75):
        write_proposals(one, proposals(score))
        assert open_proposals(other, "street", "train").scores_N.tolist() == [score]
    assert one.mirror is not None
    one.mirror.bucket.delete("proposals/street/train/person.h5")
    assert list_proposals(other) == []
    with pytest.raises(NotFoundError, match=r"no proposals for street/train in 's3://"):
        open_proposals(other, "street", "train")


def test_names_in_a_bucket_cannot_leave_the_mirror(machine: OpenStore, tmp_path: Path) -> None:
    store = machine("one")
    assert store.mirror is not None
    for key in ("proposals/street/../../../evil.h5", "proposals/../x/evil.h5", "proposals/street/train/../evil.h5"):
        store.mirror.bucket.put(key, b"x")
    list_proposals(store)
    list_feature_sets(store)
    assert not list(tmp_path.rglob("evil.h5"))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cache, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_commands_take_a_bucket(proxy: FaultProxy, frames_root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "dataset.yaml").write_text(
        f"name: street\nmedia: {{kind: frames, root: {frames_root}}}\nsplits: {{train: {{videos: [v0]}}}}\n"
    )
    tiny = ["--slowfast", "random:0", "--slowfast-preset", "tiny"]
    arguments = [str(data), "--split", "train", "--store", URL, *tiny]
    estimated = CliRunner().invoke(precompute, [*arguments, "--estimate"], catch_exceptions=False).stdout
    assert estimated.startswith("3 key frames to compute")
    assert "free" not in estimated  # a bucket has no limit, and the mirror's disk says nothing about it
    assert not [request for request in proxy.log if request.method in ("PUT", "POST")]
    assert CliRunner().invoke(precompute, arguments, catch_exceptions=False).exit_code == 0
    (info,) = list_feature_sets(Store.open(URL))
    assert info.complete
    assert f"street/train  {info.id}" in invoke("ls", URL).stdout
    described = json.loads(invoke("info", URL, info.id).stdout)
    assert (described["num_done"], described["num_missing"]) == (3, 0)
    assert "3 rows checked, 0 damaged" in invoke("verify", URL).stdout
    back = tmp_path / "back"
    assert "3 rows copied" in invoke("copy", URL, back).stdout
    assert {k: v for k, v in files(back).items() if k.startswith("features/")} == objects(Store.open(URL))

    change(Store.open(URL), f"features/street/train/{info.id}/slow/c/0/0/0/0", lambda content: content[:-1] + b"x")
    with pytest.raises(StalError, match=r"s3://cache/some/store"):
        invoke("verify", URL)
    with pytest.raises(StalError, match="marked as not computed now"):
        invoke("verify", URL, "--repair")
    assert CliRunner().invoke(precompute, arguments, catch_exceptions=False).exit_code == 0
    assert "3 rows checked, 0 damaged" in invoke("verify", URL).stdout


def test_the_mirror_does_not_wait_for_the_disk(
    machine: OpenStore, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_split(machine("one"), split)
    other = machine("other")

    def refuse(descriptor: int) -> None:
        raise AssertionError("fsync")

    monkeypatch.setattr("os.fsync", refuse)
    assert load_split(other, "street", "train").split == "train"
