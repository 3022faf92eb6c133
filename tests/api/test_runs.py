"""Training, prediction and evaluation from Python: the same as by the commands."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import stal
from cache.proposal_store import DetectorSpec, Proposals, write_proposals
from cli.main import root
from stal_data.annotations import write_ground_truth
from tests.recognizer.toy_store import ACAR, LABELS

ENDLESS = {"training.epochs": 100_000, "validation.split": None}


def test_a_store_lists_what_it_holds(store: stal.Store, run: stal.Run) -> None:
    assert store.splits() == [("toy", "test"), ("toy", "train")]
    assert run in store.runs()
    assert store.run("trained") == run
    summary = run.summary()
    assert (summary.status, summary.epochs_done, summary.settings["head.kind"]) == ("succeeded", 1, '"acar"')
    assert summary.best_map is not None
    with pytest.raises(stal.StalError, match=r"no run 'traind'.*Did you mean 'trained'"):
        store.run("traind")


def test_a_prediction_is_that_of_the_command(store: stal.Store, run: stal.Run, tmp_path: Path) -> None:
    command = ["predict", "--run", run.id, "--dataset", "toy", "--split", "test", "--boxes", "ground-truth"]
    files = tmp_path / "command.csv", tmp_path / "api.csv"
    done = CliRunner().invoke(root, [*command, "--store", str(store.folders.root), "--output", str(files[0])])
    assert done.exit_code == 0, done.output
    predictions = stal.predict(run, "toy", "test")
    predictions.write(files[1])
    assert files[0].read_bytes() == files[1].read_bytes()
    assert predictions.label_map == LABELS


def test_a_head_scores_boxes_of_ones_own_as_the_prediction_does(store: stal.Store, run: stal.Run) -> None:
    features = store.features("toy", "test")
    predicted = stal.predict(run, "toy", "test", checkpoint="best")
    head = stal.load_head(run, checkpoint="best", device="cpu")
    scored = head.score(features, {item.key: item.boxes_N4 for item in predicted.key_frames})
    for mine, theirs in zip(scored.key_frames, predicted.key_frames, strict=True):
        assert mine.key == theirs.key
        assert np.array_equal(mine.scores_NC, theirs.scores_NC)
    key = features.key_frames[0]
    with pytest.raises(stal.StalError, match="must be x1,y1,x2,y2"):
        head.score(features, {key: np.array([[0.5, 0, 0.2, 1]], np.float32)})
    with pytest.raises(stal.StalError, match="not in the feature set"):
        head.score(features, {stal.KeyFrame("elsewhere", 0): np.array([[0, 0, 1, 1]], np.float32)})


def test_proposals_are_scored_by_name(store: stal.Store, run: stal.Run) -> None:
    keys = store.features("toy", "test").key_frames
    spec = DetectorSpec(name="person", weights="sha256:0", height=8, width=8, confidence=0.1, library="none")
    box = np.tile(np.array([[0.1, 0.1, 0.4, 0.9]], np.float32), (len(keys), 1))
    proposals = Proposals(
        dataset="toy",
        split="test",
        key_frames=keys,
        offsets_K1=np.arange(len(keys) + 1),
        boxes_N4=box,
        scores_N=np.ones(len(keys), np.float32),
        detector=spec,
    )
    write_proposals(store.folders, proposals)
    predicted = stal.predict(run, "toy", "test", boxes="proposals:person")
    assert [item.key for item in predicted.key_frames] == list(keys)
    with pytest.raises(stal.StalError, match="no proposals named 'persn'"):
        stal.predict(run, "toy", "test", boxes="proposals:persn")
    with pytest.raises(stal.StalError, match="'truth' must be ground-truth"):
        stal.predict(run, "toy", "test", boxes="truth")


def test_a_split_is_ground_truth_like_its_file(store: stal.Store, run: stal.Run, tmp_path: Path) -> None:
    predictions, truth = stal.predict(run, "toy", "test"), store.split("toy", "test")
    result = stal.evaluate(predictions, truth)
    predictions.write(tmp_path / "predictions.csv")
    write_ground_truth(tmp_path / "truth.csv", truth.key_frames)
    files = stal.evaluate(tmp_path / "predictions.csv", tmp_path / "truth.csv", label_map=LABELS)
    assert result.per_class() == files.per_class()
    assert 0 < result.mean_ap <= 1
    assert (result.split.dataset, result.split.name) == ("toy", "test")
    ava = stal.evaluate(predictions, truth, protocol="ava", capacities=[50])
    assert (ava.protocol.name, ava.capacities) == ("ava", (50,))
    busiest = max(truth.key_frames, key=lambda item: len(item.labels))
    fewer = stal.evaluate(predictions, truth, exclusions=[busiest.key])
    assert fewer.truth_count_K.sum() == result.truth_count_K.sum() - len(busiest.labels)


def test_the_documented_lines_run(
    store: stal.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "python-api.md").read_text()
    (tmp_path / "store").symlink_to(store.folders.root)
    monkeypatch.chdir(tmp_path)
    blocks = [part.split("```")[0] for part in page.split("```python\n")[1:]]
    exec("\n".join(blocks).replace("synthetic", "toy"), {})
    assert len(blocks) == 4
    assert capsys.readouterr().out.splitlines()[-1].startswith("video0,0000 [[")


def test_label_maps_must_be_there_and_agree(store: stal.Store, run: stal.Run, tmp_path: Path) -> None:
    predictions, truth = stal.predict(run, "toy", "test"), store.split("toy", "test")
    predictions.write(tmp_path / "predictions.csv")
    write_ground_truth(tmp_path / "truth.csv", truth.key_frames)
    with pytest.raises(stal.StalError, match="label_map is None"):
        stal.evaluate(tmp_path / "predictions.csv", tmp_path / "truth.csv")
    other = stal.Predictions(label_map=stal.LabelMap(LABELS.labels[:2]), key_frames=[])
    with pytest.raises(stal.StalError, match="must have one label map"):
        stal.evaluate(other, truth)


async def test_training_works_beside_a_running_loop_as_in_a_notebook(store: stal.Store) -> None:
    run = stal.train(ACAR, store=store, overrides={"training.epochs": 1, "validation.split": None})
    assert run.id.startswith("toy-acar-")
    again = stal.train(ACAR, store=store, run_id=run.id, resume=True, overrides={"validation.split": None})
    assert again.summary().epochs_done == 2


def test_what_ends_a_training_is_its_error(store: stal.Store) -> None:
    with pytest.raises(stal.StalError, match="head: unknown key 'depht'"):
        stal.train(ACAR, store=store, overrides={"head.depht": 1})
    with pytest.raises(stal.StalError, match="toy/nowhere"):
        stal.train(ACAR, store=store, overrides={"data.train_split": "nowhere"})
    with pytest.raises(stal.StalError, match="run_id is None; name the run"):
        stal.train(ACAR, store=store, resume=True)
    rate = {"kind": "sgd", "learning_rate": 1000, "momentum": 0.99}
    with pytest.raises(stal.StalError, match=r"diverging failed: .*not finite"):
        stal.train(
            ACAR,
            store=store,
            run_id="diverging",
            overrides={"optimizer": rate, "schedule.warmup_epochs": 0, "training.epochs": 20},
        )


def test_an_interrupt_ends_a_training_with_a_checkpoint(store: stal.Store) -> None:
    folder = store.folders.runs_dir / "interrupted"

    def interrupt() -> None:
        while not (folder / "checkpoints" / "latest.safetensors").exists():
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGINT)

    ended = threading.Event()
    watcher = threading.Thread(target=interrupt)
    watcher.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            stal.train(ACAR, store=store, overrides=ENDLESS, run_id=folder.name)
    finally:
        ended.set()
        watcher.join()
    summary = store.run(folder.name).summary()
    assert (summary.status, summary.epochs) == ("cancelled", 100_000)
    assert summary.epochs_done >= 1
