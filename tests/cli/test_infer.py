"""`stal-cli infer`: what it makes again and what it finds in the store."""

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from cli.main import root
from stal_data.errors import ConflictError, StalError
from svc_common.errors import AccessError
from tests.cli.inference_store import BACKBONES, Inference, in_this_process, make_store, save_weights, stal_cli, train
from tests.data.videos import constant, write_video
from tests.detector.replica import ReplicaService
from tests.services.echo import in_a_thread


@pytest.fixture(scope="module")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("made"))


@pytest.fixture
def inference(made_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inference]:
    """Calls `infer` on a store of its own, with all commands in this process."""
    shutil.copytree(made_store.parent, tmp_path / "made")
    with in_this_process(tmp_path / "made" / "store", monkeypatch) as made:
        yield made


@pytest.fixture
def person() -> Iterator[tuple[str, ...]]:
    """A running detector."""
    with in_a_thread(ReplicaService()) as port:
        yield "--detector", f"127.0.0.1:{port}"


ALL = ["dataset", "detect", "precompute", "predict"]


def video(path: Path, *, start: int = 0) -> Path:
    """Three seconds whose pictures differ by `start`."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    return write_video(path, constant(25, 75), first=start)


def results(output: Path) -> dict[str, bytes]:
    """The files of the results but the page, which names the video's place, and the MP4: libx264 may vary."""
    files = [output / name for name in ("predictions.csv", "actions.jsonl", "coco.json")]
    return {path.name: path.read_bytes() for path in [*files, *(output / "videos").glob("*/*.vtt")]}


def shared_files(store: Path) -> dict[Path, tuple[int, int]]:
    """Identity and time of what `infer` shares with others."""
    files = [path for kind in ("features", "proposals") for path in (store / kind).rglob("*") if path.is_file()]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files if path.suffix != ".lock"}


def test_a_replaced_video_gets_its_own_results(inference: Inference, person: tuple[str, ...], tmp_path: Path) -> None:
    latest, out = tmp_path / "latest.mp4", tmp_path / "out"
    assert inference(video(latest), out, *person) == ALL
    first = results(out)
    assert inference(latest, out, *person) == []
    assert results(out) == first
    assert inference(video(latest, start=500), out, *person) == ALL
    assert results(out) != first
    assert inference(latest, tmp_path / "other", *person) == ["dataset", "precompute", "predict"]
    assert results(out) == results(tmp_path / "other")
    assert inference(video(latest), out, *person) == ["dataset", "precompute", "predict"]
    assert results(out) == first


@pytest.mark.parametrize("stage", ["detect", "precompute"])
def test_a_video_that_is_replaced_meanwhile_is_not_taken_for_the_one_before(
    inference: Inference, person: tuple[str, ...], tmp_path: Path, stage: str
) -> None:
    latest, out = tmp_path / "latest.mp4", tmp_path / "out"
    inference.before[stage] = lambda: video(latest, start=500)
    with pytest.raises(ConflictError, match="was changed while it was read; run the command again"):
        inference(video(latest), out, *person)
    inference.before.clear()
    if stage == "precompute":
        (features,) = (inference.store / "features").glob("latest-*/all/[!.]*")
        stal_cli("cache", "prune", inference.store, "--set", features.name, "--dataset", features.parts[-3], "--yes")
    inference(video(latest), out, *person)
    inference(video(tmp_path / "other" / "latest.mp4"), tmp_path / "other" / "out", *person)
    assert results(out) == results(tmp_path / "other" / "out")


def test_a_run_that_was_trained_further_scores_anew(
    inference: Inference, person: tuple[str, ...], tmp_path: Path
) -> None:
    street, out = video(tmp_path / "street.mp4"), tmp_path / "out"
    inference(street, out, *person)
    first, shared = results(out), shared_files(inference.store)
    shutil.rmtree(inference.store / "runs" / "first")
    train(inference.store, "first", seed=7)
    assert inference(street, out, *person) == ["predict"]
    assert results(out)["predictions.csv"] != first["predictions.csv"]
    assert shared_files(inference.store) == shared


def test_another_run_and_another_folder_use_what_is_in_the_store(
    inference: Inference, person: tuple[str, ...], tmp_path: Path
) -> None:
    street = video(tmp_path / "street.mp4")
    inference(street, tmp_path / "out", *person)
    shared = shared_files(inference.store)
    train(inference.store, "second", seed=7)
    assert inference(street, tmp_path / "other", *person, run="second") == ["dataset", "precompute", "predict"]
    assert shared_files(inference.store) == shared
    assert inference(street, tmp_path / "out", *person) == []


def test_backbone_weights_that_the_head_does_not_know_are_refused_before_features_are_computed(
    inference: Inference, person: tuple[str, ...], tmp_path: Path
) -> None:
    street, out = video(tmp_path / "street.mp4"), tmp_path / "out"
    inference(street, out, *person)
    save_weights(inference.store.parent / "vit.safetensors", seed=5)
    with pytest.raises(
        ConflictError, match=r"vit.safetensors' holds vit weights .*run 'first' was trained on features"
    ):
        inference(street, out, *person)
    assert inference.ran == []
    save_weights(inference.store.parent / "vit.safetensors", seed=0)
    assert inference(street, out, *person) == ["precompute"]


def test_a_detector_of_other_weights_under_the_same_name_detects_anew(inference: Inference, tmp_path: Path) -> None:
    street, out = video(tmp_path / "street.mp4"), tmp_path / "out"
    services = [ReplicaService(), ReplicaService(weights="sha256:2")]
    for service, ran in zip(services, (ALL, ["detect", "predict"]), strict=True):
        with in_a_thread(service) as port:
            assert inference(street, out, "--detector", f"127.0.0.1:{port}") == ran
        assert service.answered
    assert len(list((inference.store / "proposals").rglob("*.h5"))) == 2


def test_replaced_detector_weights_and_other_options_detect_anew(
    inference: Inference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    street, out, weights = video(tmp_path / "street.mp4"), tmp_path / "out", tmp_path / "person.pt"
    with in_a_thread(ReplicaService()) as port:  # in place of the private service that would load the weights
        service = SimpleNamespace(address=f"127.0.0.1:{port}")
        monkeypatch.setattr("cli.workflow.detect_stage.Service", lambda *_: nullcontext(service))
        for content, option, ran in (
            ("one", "0.3", ALL),
            ("one", "0.3", []),
            ("two", "0.3", ["detect", "predict"]),
            ("two", "0.4", ["detect", "predict"]),
            ("one", "0.3", ["predict"]),
        ):
            weights.write_text(content)
            assert inference(street, out, "--detector-weights", weights, "--confidence", option) == ran


def test_detector_weights_that_are_replaced_meanwhile_are_not_taken_for_those_before(
    inference: Inference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    street, out, weights = video(tmp_path / "street.mp4"), tmp_path / "out", tmp_path / "person.pt"
    weights.write_text("one")
    with in_a_thread(ReplicaService()) as port:  # in place of the private service that would load the weights
        service = SimpleNamespace(address=f"127.0.0.1:{port}")
        monkeypatch.setattr("cli.workflow.detect_stage.Service", lambda *_: nullcontext(service))
        inference.before["detect"] = lambda: weights.write_text("another")
        with pytest.raises(ConflictError, match=r"person.pt' was changed while it was read"):
            inference(street, out, "--detector-weights", weights)
        assert list((inference.store / "proposals").rglob("*.h5")) == []
        inference.before.clear()
        for content in ("one", "another"):
            weights.write_text(content)
            assert "detect" in inference(street, out, "--detector-weights", weights)


def test_a_detector_that_runs_another_model_meanwhile_is_not_taken_for_the_one_before(
    inference: Inference, tmp_path: Path
) -> None:
    street, out, service = video(tmp_path / "street.mp4"), tmp_path / "out", ReplicaService()
    with in_a_thread(service) as port:
        inference.before["detect"] = lambda: service.model.update(overlap=0.5)
        with pytest.raises(ConflictError, match="runs another model than before"):
            inference(street, out, "--detector", f"127.0.0.1:{port}")
        assert list((inference.store / "proposals").rglob("*.h5")) == []
        inference.before.clear()
        assert "detect" in inference(street, out, "--detector", f"127.0.0.1:{port}")


@pytest.mark.parametrize("what", ["cli.workflow.detect_stage.version", "stal_data.media.video.VideoFiles.decoder"])
def test_proposals_of_another_version_or_decoder_are_made_again(
    inference: Inference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    street, weights = video(tmp_path / "street.mp4"), tmp_path / "person.pt"
    weights.write_text("one")
    with in_a_thread(ReplicaService()) as port:  # in place of the private service that would load the weights
        service = SimpleNamespace(address=f"127.0.0.1:{port}")
        monkeypatch.setattr("cli.workflow.detect_stage.Service", lambda *_: nullcontext(service))
        for options in (["--detector-weights", weights], ["--detector", service.address]):
            assert "detect" in inference(street, tmp_path / "out", *options)
            assert "detect" not in inference(street, tmp_path / "out", *options)
            with monkeypatch.context() as patch:
                patch.setattr(what, (lambda name: "99") if what.endswith("version") else "99")
                with suppress(ConflictError):  # the head knows features of one decoder
                    inference(street, tmp_path / "out", *options)
                assert "detect" in inference.ran


def test_a_folder_that_is_named_like_a_preset_does_not_count(
    inference: Inference, person: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    street, out = video(tmp_path / "street.mp4"), tmp_path / "out"
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    presets = ("--slowfast-preset", "tiny", "--vit-preset", "tiny")
    inference(street, out, *person, *presets)
    (tmp_path / "tiny" / "notes").write_text("mine")
    assert inference(street, out, *person, *presets) == []


def test_results_that_are_gone_are_written_again(inference: Inference, person: tuple[str, ...], tmp_path: Path) -> None:
    street, out = video(tmp_path / "street.mp4"), tmp_path / "out"
    inference(street, out, *person)
    first = results(out)
    folder = out / "videos" / "street"
    for gone, ran in (
        (folder / "street-annotated.mp4", []),
        (out / "predictions.csv", []),
        (folder / "predictions.csv", ["predict"]),
    ):
        gone.unlink()
        assert inference(street, out, *person) == ran
        assert gone.exists()
        assert results(out) == first
    assert results(out) == first


def test_pruned_features_and_damaged_proposals_are_made_again(
    inference: Inference, person: tuple[str, ...], tmp_path: Path
) -> None:
    street, out = video(tmp_path / "street.mp4"), tmp_path / "out"
    inference(street, out, *person)
    first = results(out)
    (features,) = (inference.store / "features").glob("street-*/all/[!.]*")
    stal_cli("cache", "prune", inference.store, "--set", features.name, "--dataset", features.parts[-3], "--yes")
    (proposals,) = (inference.store / "proposals").glob("street-*/all/*.h5")
    proposals.write_bytes(b"damaged")
    assert inference(street, out, *person) == ["detect", "precompute"]
    assert results(out) == first


NAMES = {
    "192 letters": "a" * 192,
    "255 bytes": "a" * 251,
    "83 Chinese characters": "\u8857" * 83,
    "254 bytes of two kinds": "x" + "\u8857" * 83,
    "no letter": "-" * 200,
    "like an ending": "\u8857.mp4 (1)",
    "spaces": " a b ",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_every_name_of_a_file_works(inference: Inference, person: tuple[str, ...], tmp_path: Path, name: str) -> None:
    inference(video(tmp_path / f"{name}.mp4"), tmp_path / "out", *person, "--min-score", "0")
    found = [json.loads(line) for line in (tmp_path / "out" / "actions.jsonl").read_text().splitlines()]
    assert {line["video"] for line in found} == {name}
    assert len(found) == 3
    assert len(list((tmp_path / "out" / "videos").glob("*/*.mp4"))) == 1
    assert len(list((tmp_path / "out" / "videos").glob("*/*.vtt"))) == 1


def test_results_of_long_names_that_begin_alike_stay_apart(
    inference: Inference, person: tuple[str, ...], tmp_path: Path
) -> None:
    names = ["\u8857" * 83 + end for end in "ab"]
    first, second = (video(tmp_path / f"{name}.mp4") for name in names)
    inference(first, tmp_path / "out", second, *person)
    assert len(list((tmp_path / "out" / "videos").glob("*/*.mp4"))) == 2


@pytest.mark.parametrize("stored", ["slow=mean,slope", "slow=full"])
def test_features_are_computed_as_those_that_the_run_was_trained_on(
    inference: Inference, person: tuple[str, ...], tmp_path: Path, stored: str
) -> None:
    store, made = inference.store, inference.store.parent
    words = [word for kind in BACKBONES for word in (f"--{kind}", made / f"{kind}.safetensors")]
    words += ["--autocast", "bf16", "--statistics", stored]
    line = stal_cli("precompute", made / "data", "--split", "train", "--store", store, *words).splitlines()[-1]
    chosen = (f"data.feature_set={line.partition(':')[0].rpartition('/')[2]}", "data.statistics=[mean, slope]")
    train(store, "slopes", *chosen, seed=0)
    assert inference(video(tmp_path / "street.mp4"), tmp_path / "out", *person, run="slopes") == ALL
    assert json.loads((tmp_path / "out" / "actions.jsonl").read_text().splitlines()[0])["video"] == "street"
    assert (
        "--statistics slow=mean,slope"
        in (tmp_path / "out" / "videos" / "street" / "logs" / "precompute.log").read_text()
    )


def scores(output: Path) -> NDArray[np.float64]:
    return np.loadtxt(output / "predictions.csv", delimiter=",", usecols=7)


def test_scores_are_multiplied_by_confidence_and_averaged_with_the_mirrored_view(
    inference: Inference, person: tuple[str, ...], tmp_path: Path
) -> None:
    street, out, by_hand = video(tmp_path / "street.mp4"), tmp_path / "out", tmp_path / "by-hand.csv"
    inference(street, out, *person)
    plain = results(out)
    alone = scores(out)
    assert inference(street, out, *person, "--fuse-confidence") == ["predict"]
    np.testing.assert_allclose(scores(out), alone * 0.5, rtol=1e-6)  # the detector is always half sure
    assert inference(street, out, *person, "--flip-average") == ["precompute", "predict"]
    assert inference(street, out, *person, "--flip-average") == []
    averaged = (out / "predictions.csv").read_bytes()
    assert not np.allclose(scores(out), alone, rtol=1e-3)
    (dataset,) = (path.name for path in (inference.store / "features").glob("street-*"))
    words = ("--run", "first", "--store", inference.store, "--dataset", dataset, "--split", "all")
    stal_cli("predict", *words, "--boxes", "proposals", "--flip-average", "--output", by_hand)
    assert averaged == by_hand.read_bytes()
    assert inference(street, out, *person) == ["precompute", "predict"]
    assert results(out) == plain


def test_a_bad_video_does_not_end_the_others(
    inference: Inference, person: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, bad = video(tmp_path / "a.mp4"), video(tmp_path / "c.mp4", start=9), tmp_path / "b.mp4"
    bad.write_bytes(b"no video")
    out = tmp_path / "out"
    weights = [word for kind in BACKBONES for word in (f"--{kind}", inference.store.parent / f"{kind}.safetensors")]
    words = ["infer", first, bad, second, "--store", inference.store, "--run", "first", *weights, "--output", out]
    result = CliRunner().invoke(root, [*map(str, words), *person, "--json"])
    assert isinstance(result.exception, StalError)
    assert "1 of 3 videos failed:\nb: " in str(result.exception)
    printed = json.loads(result.stdout)
    assert [item["video"] for item in printed["videos"]] == ["a", "c"]
    assert list(printed["failed"]) == ["b"]
    assert str(bad) in printed["failed"]["b"]
    found = [json.loads(line) for line in (out / "actions.jsonl").read_text().splitlines()]
    assert [line["video"] for line in found] == ["a"] * 3 + ["c"] * 3
    assert "b (2 of 3)" in result.stderr
    assert inference(first, out, *person) == []
    assert (out / "index.html").read_text().count('class="video"') == 1
    video(bad, start=500)
    assert inference(first, out, second, bad, *person) == ALL
    assert (out / "index.html").read_text().count('class="video"') == 3


def test_a_detector_that_does_not_answer_ends_all(inference: Inference, tmp_path: Path) -> None:
    """It concerns every video, so nothing is tried with the next one."""
    first, second = video(tmp_path / "a.mp4"), video(tmp_path / "b.mp4", start=9)
    with in_a_thread(ReplicaService(error=AccessError("no token"))) as port, pytest.raises(AccessError):
        inference(first, tmp_path / "out", second, "--detector", f"127.0.0.1:{port}")
    assert [path.name for path in (tmp_path / "out" / "videos").iterdir()] == ["a"]


def test_annotated_videos_are_left_out_on_request(
    inference: Inference, person: tuple[str, ...], tmp_path: Path
) -> None:
    street, out = video(tmp_path / "street.mp4"), tmp_path / "out"
    inference(street, out, *person, "--no-video")
    annotated = out / "videos" / "street" / "street-annotated.mp4"
    assert not annotated.exists()
    assert '"annotated":null' in (out / "index.html").read_text()
    assert inference(street, out, *person) == []
    assert annotated.exists()
    assert '"annotated":"videos/street/street-annotated.mp4"' in (out / "index.html").read_text()
    assert inference(street, out, *person, "--no-video") == []
    assert not annotated.exists()  # it could be of other scores


def test_another_least_score_changes_the_results_alone(
    inference: Inference, person: tuple[str, ...], tmp_path: Path
) -> None:
    street, out = video(tmp_path / "street.mp4"), tmp_path / "out"
    inference(street, out, *person, "--min-score", "0")
    first = results(out)
    assert inference(street, out, *person, "--min-score", "1") == []
    changed = results(out)
    assert changed["predictions.csv"] == first["predictions.csv"]
    assert json.loads(changed["coco.json"])["annotations"] == []
    assert [json.loads(line)["actions"] for line in changed["actions.jsonl"].decode().splitlines()] == [{}] * 3
