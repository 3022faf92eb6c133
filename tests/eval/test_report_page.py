"""The HTML report without a browser: well-formed, complete, closed to foreign input and to the network."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from cli.main import root
from stal_data.errors import InputError
from stal_eval.report import render, write_report
from stal_eval.report.pictures import read_pictures
from tests.data.folders import write_small_dataset
from tests.eval.report_case import CLASSES, TITLE, VIDEO, Case, make_case

VOID = {"meta", "input", "br", "hr", "img", "link"}


class Page(HTMLParser):
    """Checks that every element is closed where it should be; collects elements, ids and the text in elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(dict(attributes)) == len(attributes), f"<{tag}> repeats an attribute"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.texts.append(text)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def html(case: Case, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    path = write_report(case.result, folder, title=TITLE, frames=case.dataset)
    assert [file.name for file in folder.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_it_is_well_formed_and_ids_are_unique(html: str) -> None:
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert html.startswith("<!doctype html>")


def test_it_shows_the_figures_of_the_result(case: Case, html: str) -> None:
    metrics, text = case.result.metrics(), " ".join(Page(html).texts)
    assert f"{100 * metrics['chosen']['mAP']:.2f}" in text
    assert f"{100 * metrics['mAP_at_50']:.2f}" in text
    for name, ap in metrics["per_class"].items():
        assert name in text
        assert ap is None or f"{100 * ap:.2f}" in text
    assert metrics["digests"]["predictions"] in text
    assert "no ground truth" in text
    for outcome in ("found", "right", "wrong action on a found person", "nobody annotated there"):
        assert outcome in text


def test_the_first_card_says_what_its_map_counts_and_where_the_capacity_is_from(case: Case, html: str) -> None:
    capacity, cards = case.result.best.capacity, html.split('<ul class="cards">')[1].split("</li>")
    text = " ".join(Page(f"<ul>{cards[0]}</li></ul>").texts)
    rows = "row counts" if capacity == 1 else f"{capacity} rows count"
    assert f"Of each key frame, the best-scored {rows} (capacity {capacity})." in text
    assert "The capacity was chosen on the scored split itself" in text
    assert "so this mAP is too optimistic: give mAP at 50 beside it." in text
    assert re.search(r"with equal scores in other orders\.|The same for every order of equal scores\.", text)
    assert "the best-scored 50 rows count (capacity 50)" in cards[1]


def test_every_breakdown_adds_up_on_the_page(case: Case, html: str) -> None:
    errors = case.result.metrics()["errors"]
    for point in errors:
        part = re.search(rf'data-point="{point}">(.*?)</div></div>', html, re.DOTALL)
        assert part is not None
        for side in ("ground_truth", "predictions"):
            total = sum(errors[point]["overall"][side].values())
            assert f"{total} rows" in part[1]


def test_the_embedded_numbers_are_those_of_the_result(case: Case, html: str) -> None:
    metrics = case.result.metrics()
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', html)
    assert embedded is not None
    data = json.loads(embedded[1])
    assert data["classes"] == list(CLASSES)
    assert data["capacity"]["x"] == metrics["capacities"]
    assert data["capacity"]["map"] == pytest.approx([100 * value for value in metrics["mAP"]], abs=1e-3)
    for name, curve in zip(CLASSES, data["curves"]["chosen"], strict=True):
        exact = metrics["precision_recall"]["chosen"][name]
        assert curve == (None if exact is None else {key: pytest.approx(exact[key], rel=1e-4) for key in exact})


def test_names_stay_text(html: str) -> None:
    page = Page(html)
    scripts = page.named("script")
    assert [script.get("type") for script in scripts] == ["application/json", None]
    assert page.named("img") == []
    assert [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)] == []
    assert TITLE in page.texts
    assert any(VIDEO in text for text in page.texts)
    headings = [attributes["data-value"] for attributes in page.named("th") if "data-value" in attributes]
    assert CLASSES[0] in headings


def test_the_policy_allows_this_script_and_style_only(html: str) -> None:
    (policy,) = (m["content"] for m in Page(html).named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    for tag in ("style", "script"):
        inline = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert inline is not None
        digest = base64.b64encode(hashlib.sha256(inline[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert [attributes for _, attributes in Page(html).elements if "style" in attributes] == []


def test_it_names_no_address(html: str) -> None:
    namespace = "http://www.w3.org/2000/svg"
    assert set(re.findall(r"https?://[^\s\"']+", html)) == {namespace}
    sources = [value for _, items in Page(html).elements for name, value in items.items() if name in ("src", "href")]
    assert sources
    assert all(source is not None and source.startswith("data:image/jpeg;base64,") for source in sources)


def test_key_frames_are_embedded_as_small_pictures_with_boxes(case: Case, html: str) -> None:
    page = Page(html)
    pictures = page.named("image")
    assert len(pictures) == len(case.result.details.examples) == 2
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(str(picture["href"]).split(",")[1]))) as image:
            assert (image.format, image.size) == ("JPEG", (320, 180))
    # The frame in the middle of the annotated window, whose colour tells its number.
    first = Image.open(io.BytesIO(base64.b64decode(str(pictures[0]["href"]).split(",")[1])))
    wanted = case.result.details.examples[0].key.time_ms // 40 + 12
    assert abs(first.convert("RGB").getpixel((5, 5))[0] - wanted) <= 3
    truth = [attributes for attributes in page.named("g") if attributes["class"] == "box o-truth"]
    assert len(truth) == 2 * 2 * 2  # two people in each of two key frames, as edge and as badge


def test_the_weakest_class_comes_first_in_table_and_key_frames(case: Case, html: str) -> None:
    per_class = {name: ap for name, ap in case.result.per_class().items() if ap is not None}
    weakest = min(per_class, key=lambda name: per_class[name])
    rows = [attributes["data-value"] for attributes in Page(html).named("th") if "data-value" in attributes]
    assert rows[0] == weakest
    assert rows[len(CLASSES) - 1] == "never seen"
    assert CLASSES[case.result.details.examples[0].label] == weakest


def test_without_frames_it_says_how_to_get_them(case: Case) -> None:
    html = render(case.result.metrics(), TITLE, case.result.details.examples)
    page = Page(html)
    assert page.named("image") == []
    assert "--frames" in page.texts


def test_a_data_set_that_lacks_the_key_frames_is_refused(case: Case, tmp_path: Path) -> None:
    other = write_small_dataset(tmp_path / "other")
    with pytest.raises(InputError, match=r"shows none of the 2 example key frames; .*Give the data set"):
        write_report(case.result, tmp_path, title=TITLE, frames=other)
    assert not (tmp_path / "report.html").exists()


def test_pictures_are_bounded_and_what_does_not_fit_is_told(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [example.key for example in case.result.details.examples]
    one = len(read_pictures(case.dataset, keys[:1]).by_key[keys[0]].jpeg)
    monkeypatch.setattr("stal_eval.report.pictures.MAX_TOTAL_BYTES", one + 10)
    path = write_report(case.result, tmp_path, title=TITLE, frames=case.dataset)
    page = Page(path.read_text())
    assert len(page.named("image")) == 1
    assert any("fill the page" in text for text in page.texts)


def test_large_frames_are_made_smaller(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stal_eval.report.pictures.MAX_SIDE_PX", 100)
    key = case.result.details.examples[0].key
    picture = read_pictures(case.dataset, [key]).by_key[key]
    assert (picture.width, picture.height) == (100, 56)


def test_the_command_writes_the_report_beside_the_metrics(tmp_path: Path) -> None:
    rows = [f"b,{second},.1,.2,.3,.8,2" for second in (1, 2)]
    (tmp_path / "truth.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "found.csv").write_text(f"{rows[0]},0.5\n")
    dataset = write_small_dataset(tmp_path / "data")
    arguments = ["--predictions", "found.csv", "--ground-truth", "truth.csv", "--label-map", "data/labels.pbtxt"]
    words = [str(tmp_path / word) if "." in word else word for word in arguments]
    result = CliRunner().invoke(root, ["eval", *words, "--output", str(tmp_path / "out"), "--frames", str(dataset)])
    assert result.exit_code == 0, result.output
    assert "report.html" in result.output
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert "found.csv" in page.texts
    assert len(page.named("image")) == 1  # the second where the person was missed
    assert (tmp_path / "out" / "metrics.json").is_file()


def test_requested_figures_have_sections_tables_and_entries(tmp_path: Path) -> None:
    hostile = "[/b]<img src=x onerror=alert(4)>"
    (tmp_path / "labels.pbtxt").write_text(
        f'label {{ name: "{hostile}" label_id: 1 label_type: POSE }}\nlabel {{ name: "walk" label_id: 2 }}\n'
    )
    (tmp_path / "truth.csv").write_text("a,0,.1,.1,.5,.5,1,7\na,1,.1,.1,.5,.5,1,7\n")
    (tmp_path / "found.csv").write_text(
        "a,0,.1,.1,.5,.5,1,.5,1\na,0,.1,.1,.5,.5,2,.6,1\na,1,.1,.1,.5,.45,1,.5,1\na,1,.1,.1,.5,.45,2,.6,1\n"
    )
    (tmp_path / "segments.csv").write_text(f"video,person,action,start_s,end_s,score\na,1,{hostile},0,2,.5\n")
    words = ["eval", "--label-map", str(tmp_path / "labels.pbtxt"), "--output", str(tmp_path), "--report"]
    words += ["--predictions", str(tmp_path / "found.csv"), "--ground-truth", str(tmp_path / "truth.csv")]
    plain = CliRunner().invoke(root, words, catch_exceptions=False)
    assert plain.exit_code == 0, plain.output
    page = (tmp_path / "report.html").read_text()
    segments = [str(tmp_path / "segments.csv")] * 2
    words += ["--iou", "0.5:0.95", "--groups", "--confusion", "--tubes", "moc", "--segments", *segments]
    result = CliRunner().invoke(root, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["by_iou"]["mAP_50_95"] == pytest.approx(0.9)  # at 0.9 and 0.95 one of two boxes is found
    assert metrics["by_label_type"]["POSE"]["mAP"] == metrics["by_box_size"]["large"]["mAP"] == 1
    assert metrics["confusion"][hostile] == {"best_scored": {"walk": 2}, "no_row": 0}
    assert metrics["video_mAP"]["mAP_50_95"] == pytest.approx(0.9)  # an IoU of 0.9375
    assert metrics["segment_f1"]["overall"]["f1"] == [1, 1, 1]
    asked = Page((tmp_path / "report.html").read_text())
    assert len(asked.named("section")) == len(Page(page).named("section")) + 7
    assert not asked.named("img")
    for title in ("mAP by IoU", "mAP by box size", "Most frequent confusions", "video-mAP of tubes", "Segment-F1"):
        assert title in asked.texts
        assert title in result.output
        assert title not in page
    assert hostile in asked.texts
