"""Two results against each other: intervals over videos, computed plainly here by scoring resampled files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.main import root
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_eval.bootstrap import draw_weights
from stal_eval.comparison import compare, compare_means
from stal_eval.preparation import prepare
from stal_eval.protocol import choose_protocol
from stal_eval.scoring import score
from stal_eval.stored import Stored, matches_content, read_matches, to_store
from tests.eval.brute_force import Found, Truth, average_precision
from tests.eval.frames import LABEL_MAP, ground_truth_frame, predictions_frame
from tests.eval.test_sweep import ground_truth, predictions

FIXTURES = Path(__file__).parent / "fixtures"
LABELS = list(LABEL_MAP.ids)


def stored(found: list[Found], truth: list[Truth], *, protocol: str = "stal", capacities: str | None = None) -> Stored:
    prepared = prepare(
        predictions_frame(found),
        ground_truth_frame(truth),
        LABEL_MAP,
        protocol=choose_protocol(protocol, capacities=capacities),
    )
    return to_store(prepared, score(prepared))


def repeated(rows: list, weights: dict[str, int]) -> list:
    """Each row as often as its video was drawn, side by side, each copy in a video of its own."""
    return [
        type(row)(**vars(row) | {"video": f"{row.video} {copy}"})
        for row in rows
        for copy in range(weights.get(row.video, 0))
    ]


@given(a=predictions, b=predictions, truth=ground_truth, seed=st.integers(0, 100), capacity=st.sampled_from([1, 3, 0]))
@settings(max_examples=25)
def test_differences_and_intervals_are_those_of_scoring_resampled_files(
    a: list[Found], b: list[Found], truth: list[Truth], seed: int, capacity: int
) -> None:
    videos = sorted({row.video for row in (*a, *b, *truth)})
    replicates = 6
    drawn = draw_weights(len(videos), replicates, seed)
    result = compare(stored(a, truth), stored(b, truth), capacity=capacity, replicates=replicates, seed=seed)
    plain: dict[int, list[float]] = {label: [] for label in LABELS}
    means = []
    for weight_V in (np.ones(len(videos), int), *drawn.T):
        weights = dict(zip(videos, weight_V.tolist(), strict=True))
        sides = [
            average_precision(repeated(rows, weights), repeated(truth, weights), LABELS, capacity) for rows in (a, b)
        ]
        deltas = {label: sides[1][label] - sides[0][label] for label in LABELS if sides[0][label] is not None}
        for label in LABELS:
            plain[label].append(deltas.get(label, np.nan))
        means.append(np.mean(list(deltas.values())) if deltas else np.nan)
    for values, delta in ((means, result.mean_ap), *zip(plain.values(), result.per_class.values(), strict=True)):
        resamples = np.array(values[1:])[~np.isnan(values[1:])]
        assert delta.delta == (None if np.isnan(values[0]) else pytest.approx(values[0], abs=1e-12))
        if len(resamples):
            assert [delta.low, delta.high] == pytest.approx(np.quantile(resamples, [0.025, 0.975]).tolist(), abs=1e-9)


@given(a=predictions, b=predictions, c=predictions, truth=ground_truth, seed=st.integers(0, 100))
@settings(max_examples=25)
def test_means_over_results_are_those_of_scoring_resampled_files(
    a: list[Found], b: list[Found], c: list[Found], truth: list[Truth], seed: int
) -> None:
    """The mean of `a` and `b` against `c`: each at its reported capacity, all on the same videos."""
    videos = sorted({row.video for row in (*a, *b, *c, *truth)})
    replicates = 6
    drawn = draw_weights(len(videos), replicates, seed)
    results = [stored(rows, truth, capacities="3") for rows in (a, b, c)]
    delta = compare_means(results[2:], results[:2], replicates=replicates, seed=seed)
    means = []
    for weight_V in (np.ones(len(videos), int), *drawn.T):
        weights = dict(zip(videos, weight_V.tolist(), strict=True))
        again = repeated(truth, weights)
        found = [average_precision(repeated(rows, weights), again, LABELS, 3) for rows in (a, b, c)]
        maps = [[ap for ap in by_label.values() if ap is not None] for by_label in found]
        one, two, three = (np.mean(values) if values else np.nan for values in maps)
        means.append((one + two) / 2 - three)
    assert delta.delta == (None if np.isnan(means[0]) else pytest.approx(means[0], abs=1e-12))
    resamples = np.array(means[1:])[~np.isnan(means[1:])]
    if len(resamples):
        assert [delta.low, delta.high] == pytest.approx(np.quantile(resamples, [0.025, 0.975]).tolist(), abs=1e-9)


def test_means_of_one_result_are_the_comparison() -> None:
    a, b = (stored(*people(quality, 0), capacities="3") for quality in (0.1, 0.6))
    delta = compare(a, b).mean_ap
    assert compare_means([a], [b]) == delta
    assert delta.is_clear
    assert compare_means([a, b], [b, a]).delta == 0
    other = replace(b, ground_truth="another")
    with pytest.raises(ConflictError, match="different ground truth"):
        compare_means([a], [b, other])


def people(quality: float, seed: int) -> tuple[list[Found], list[Truth]]:
    """Forty videos; the right class scores higher by `quality`. The same seed has the same people."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for video in range(40):
        for timestamp in range(4):
            x = rng.uniform(0, 0.7)
            box = (x, 0.2, x + 0.25, 0.9)
            label = int(rng.choice(LABELS))
            truth.append(Truth(f"video {video}", timestamp, box, label))
            noise = rng.normal(0, 1, len(LABELS))
            found += [
                Found(f"video {video}", timestamp, box, own, float(value + quality * (own == label)))
                for own, value in zip(LABELS, noise, strict=True)
            ]
    return found, truth


def test_a_clear_difference_is_told_from_none() -> None:
    (weak, truth), (strong, _) = people(0.5, 1), people(3.0, 1)
    result = compare(stored(weak, truth), stored(strong, truth))
    assert result.mean_ap.is_clear
    assert result.mean_ap.low is not None
    assert result.mean_ap.low > 0.1
    assert result.mean_ap.above == 1.0
    same = compare(stored(weak, truth), stored(weak, truth))
    assert (same.mean_ap.delta, same.mean_ap.low, same.mean_ap.high) == (0.0, 0.0, 0.0)
    assert not same.mean_ap.is_clear
    assert not result.warnings


def test_the_same_seed_gives_the_same_interval() -> None:
    (weak, truth), (strong, _) = people(0.5, 1), people(1.0, 1)
    sides = stored(weak, truth), stored(strong, truth)
    assert compare(*sides, seed=3) == compare(*sides, seed=3)
    assert compare(*sides, seed=3).mean_ap.low != compare(*sides, seed=4).mean_ap.low


def test_each_result_is_compared_at_the_capacity_it_reports() -> None:
    found, truth = people(1.0, 2)
    result = compare(stored(found, truth, capacities="1"), stored(found, truth, capacities="2"))
    assert result.capacities == (1, 2)
    assert result.mean_ap.delta != 0.0
    assert compare(stored(found, truth, capacities="1"), stored(found, truth), capacity=2).mean_ap.delta == 0.0


def test_results_that_cannot_be_compared_are_refused() -> None:
    found, truth = people(1.0, 2)
    other_truth = [*truth[1:], Truth("video 0", 0, (0.0, 0.0, 1.0, 1.0), 1 if truth[0].label != 1 else 2)]
    with pytest.raises(ConflictError, match="different ground truth"):
        compare(stored(found, truth), stored(found, other_truth))
    moved = [*truth[:-1], replace(truth[-1], box=(0.0, 0.0, 0.9, 0.9))]  # as many boxes of each class and video
    with pytest.raises(ConflictError, match="different ground truth"):
        compare(stored(found, truth), stored(found, moved))
    assert compare(stored(found, truth), stored(found[::-1][:-1], truth[::-1])).num_videos == 40
    with pytest.raises(ConflictError, match="different rules: cut_ties is file_order and heap"):
        compare(stored(found, truth, capacities="50"), stored(found, truth, protocol="ava"))
    slow = stored(found, truth, protocol="pyslowfast")
    with pytest.raises(InputError, match=r"only at the capacity that it reports, no limit: leave it out\.$"):
        compare(slow, slow, capacity=50)
    assert compare(slow, slow).mean_ap.delta == 0.0
    with pytest.raises(InputError, match="replicates is 0"):
        compare(stored(found, truth), stored(found, truth), replicates=0)
    with pytest.raises(InputError, match="confidence is 95"):
        compare(stored(found, truth), stored(found, truth), confidence=95)


@pytest.mark.parametrize("protocol", ["stal", "published", "ava", "pyslowfast", "mmaction2"])
def test_what_is_stored_gives_the_figures_of_the_metrics(tmp_path: Path, protocol: str) -> None:
    prepared = prepare(
        FIXTURES / "small_untied_pred.csv.gz",
        FIXTURES / "small_untied_gt.csv",
        FIXTURES / "list_action.pbtxt",
        protocol=choose_protocol(protocol),
    )
    result = score(prepared)
    (tmp_path / "matches.npz").write_bytes(matches_content(prepared, result))
    read = read_matches(tmp_path)
    figures = compare(read, read, replicates=1)
    assert figures.mean_ap.a == pytest.approx(result.mean_ap, abs=1e-12)
    assert {name: delta.a for name, delta in figures.per_class.items()} == {
        name: None if ap is None else pytest.approx(ap, abs=1e-12) for name, ap in result.per_class().items()
    }
    assert (tmp_path / "matches.npz").stat().st_size < 0.2 * (FIXTURES / "small_untied_pred.csv.gz").stat().st_size


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    inputs = [
        "--predictions",
        FIXTURES / "small_untied_pred.csv.gz",
        "--ground-truth",
        FIXTURES / "small_untied_gt.csv",
    ]
    inputs += ["--label-map", FIXTURES / "list_action.pbtxt"]

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(root, ["eval", *map(str, arguments)], env={"COLUMNS": "120"})
        assert result.exit_code == 0, result.output
        return result.output

    run(*inputs, "--output", tmp_path / "a", "--capacities", "10")
    run(*inputs, "--output", tmp_path / "b", "--capacities", "100")
    output = run("compare", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "delta.json", "--replicates", 50)
    assert "95 % intervals over 3 videos" in output
    assert "below 20 they tend to be too narrow" in output
    content = json.loads((tmp_path / "delta.json").read_text())
    assert run("compare", tmp_path / "a", tmp_path / "b", "--replicates", 50, "--json").startswith(
        (tmp_path / "delta.json").read_text()
    )
    metrics = [json.loads((tmp_path / side / "metrics.json").read_text()) for side in "ab"]
    assert content["mAP"]["delta"] == pytest.approx(metrics[1]["best"]["mAP"] - metrics[0]["best"]["mAP"], abs=1e-12)
    assert content["bootstrap"] == {
        "unit": "video",
        "videos": 3,
        "replicates": 50,
        "seed": 0,
        "confidence": 0.95,
    }
    assert len(content["per_class"]) == 50
    assert f"{100 * content['mAP']['delta']:+.2f}" in output


def test_folders_without_matches_or_with_damaged_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"holds no matches\.npz: give a folder that stal-cli eval wrote"):
        read_matches(tmp_path)
    (tmp_path / "matches.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(InputError, match=r"matches\.npz cannot be read"):
        read_matches(tmp_path)


def test_the_group_still_takes_the_options_of_eval() -> None:
    missing = CliRunner().invoke(root, ["eval", "--predictions", "p.csv"])
    assert missing.exit_code == 2
    assert "Missing option '--ground-truth'" in missing.output
    unknown = CliRunner().invoke(root, ["eval", "compar", "a", "b"])
    assert unknown.exit_code == 2
    assert "Did you mean 'compare'" in unknown.output
