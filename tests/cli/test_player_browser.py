"""The player's page in a real browser (Chromium without a window), used with mouse and keys."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from cli.workflow.results.annotated_video import write_annotated_video
from cli.workflow.results.people import VideoPeople
from cli.workflow.results.player import writing_player
from stal_data.media import MediaInfo
from stal_data.media.video import VideoFiles
from tests.cli.browser import CHROMIUM, Page, browsing
from tests.cli.results_case import HOSTILE, NAMES, people_in, person, walkers
from tests.data.videos import constant, write_video

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]
ROWS = "[...document.querySelectorAll('.row')].map((row) => row.innerText.trim())"
BOX_AT = """((x, y) => [...document.getElementById("boxes").getContext("2d").getImageData(
    x * document.getElementById("boxes").width, y * document.getElementById("boxes").height, 1, 1).data])"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos: one that plays, one of a kind that no browser plays, one of two hours and a crowd, now gone, and one
    without people."""
    folder = tmp_path_factory.mktemp("player")
    street = walkers(folder / "street #1.mp4")
    yard = write_video(folder / "yard.avi", constant(25, 100), codec="mpeg4", rate=25)
    there = people_in(yard, [{1: person(0.1, (1, 0.9))}])
    write_annotated_video(folder / "yard.mp4", yard, there, NAMES)
    info = MediaInfo(
        width=80, height=48, rate=VideoFiles({"y": yard}).info("y").rate, num_frames=180_000, start_s=0, duration_s=7200
    )
    crowd = tuple(
        {20 * (second // 60) + n: person(n / 30, (1, 0.9), (3, 0.5)) for n in range(1, 21) if (second + n) % 3}
        for second in range(7200)
    )
    long = VideoPeople(video=HOSTILE, info=info, times_ms=tuple(range(0, 7_200_000, 1000)), people=crowd)
    with writing_player(folder / "out" / "index.html", NAMES, min_score=0.3) as add:
        add(street, folder / "street #1.mp4", None)
        add(there, yard, folder / "yard.mp4")
        add(long, folder / "gone.mp4", None)
        add(people_in(folder / "street #1.mp4", [{}, {}]), folder / "street #1.mp4", None)
    return folder / "out" / "index.html"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def opened(tab: Page, page: Path) -> Page:
    tab.console.clear()
    tab.show(1280, 900)
    tab.open(page)
    tab.wait("video.readyState >= 2 && !video.seeking")
    return tab


def settled(tab: Page) -> float:
    """Return the time in seconds once the video has arrived there."""
    tab.wait("!video.seeking")
    return round(tab.value("video.currentTime"), 2)


def test_it_runs_under_its_own_policy_without_a_word_on_the_console(opened: Page) -> None:
    assert opened.console == []
    assert opened.value("document.getElementById('name').textContent") == "street #1"
    assert opened.value("document.title") == "street #1: actions"
    name = " ".join(HOSTILE.split())
    assert opened.value(ROWS) == ["1 · walk", f"1 · {name}", "2 · wave"]
    opened.value(
        "void document.body.append(Object.assign(document.createElement('img'), { src: 'https://a.test/b.png' }))"
    )
    opened.wait("true")
    assert any("Content Security Policy" in line for line in opened.console)


def test_a_click_on_a_row_jumps_there_and_its_name_to_the_next_segment(opened: Page) -> None:
    opened.click(".row:nth-of-type(5) canvas", share=0.3)  # person 2, from 0.5 s to 1.5 s of 4 s
    assert settled(opened) == pytest.approx(1.2, abs=0.03)
    assert opened.value("document.getElementById('now').value") == "1: walk 80% · 2: wave 70%"
    opened.click(".row:nth-of-type(4) button")  # person 1 in the second action
    assert settled(opened) == 2.5
    opened.click(".row:nth-of-type(4) button")
    assert settled(opened) == 0


def test_keys(opened: Page) -> None:
    reached = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "n", "n", "p", "l", "j"):
        opened.press(key)
        reached.append(settled(opened))
    assert reached == [1, 2, 1, 2.5, 2.5, 0.5, pytest.approx(4, abs=0.05), 0]
    opened.press(" ")
    opened.wait("!video.paused && video.currentTime > 0.2")
    opened.press("k")
    opened.wait("video.paused")
    opened.press("?")
    assert opened.value("document.getElementById('keys').open")
    opened.press("?")
    assert not opened.value("document.getElementById('keys').open")
    opened.press("v")
    assert opened.value("document.getElementById('name').textContent") == "yard"


def test_boxes_are_where_python_draws_them(opened: Page, page: Path) -> None:
    people = walkers(page.parent.parent / "street #1.mp4")
    for ms in range(0, 4000, 130):
        expected = {number: found.box for number, found in people.at(ms).items()}
        seen = dict(opened.value(f"peopleAt({ms})[1].map(({{ id, box }}) => [id, box])"))
        assert seen.keys() == expected.keys()
        for number, box in seen.items():
            assert box == pytest.approx(expected[number], abs=2e-4)
    opened.show(390, 844, phone=True)  # where the picture is as wide as the page
    opened.value("seek(1000)")
    settled(opened)
    red, green, blue, opaque = opened.value(f"{BOX_AT}(0.4, 0.6)")  # the left side of person 1
    assert (opaque > 200, red > green > blue) == (True, True)
    assert opened.value(f"{BOX_AT}(0.5, 0.6)")[3] == 0
    opened.press("b")
    assert opened.value(f"{BOX_AT}(0.4, 0.6)")[3] == 0


def test_filters_by_class_and_score(opened: Page) -> None:
    opened.click("#classes li:nth-child(1) input")  # walk, the most frequent with that of the hostile name
    assert "1 · walk" not in opened.value(ROWS)
    assert len(opened.value(ROWS)) == 2
    opened.click("#none")
    assert opened.value(ROWS) == []
    assert opened.value("document.getElementById('count').textContent") == "0 rows"
    opened.click("#all")
    for _ in range(9):
        opened.press("]")
    assert opened.value("document.getElementById('least').value") == "0.75"
    assert opened.value(ROWS) == ["1 · walk"]
    assert opened.value("peopleAt(1000)[1].map(({ id }) => id)") == [1]
    opened.press("[")
    assert opened.value(ROWS) == ["1 · walk", "2 · wave"]


def test_a_video_that_no_browser_plays_is_shown_as_its_annotated_copy(opened: Page) -> None:
    opened.press("v")
    opened.wait("!document.getElementById('notice').hidden && video.readyState >= 2")
    assert opened.value("document.getElementById('notice').textContent").startswith("This browser cannot play yard.avi")
    assert opened.value("video.currentSrc.endsWith('/yard.mp4')")
    assert opened.value(f"{BOX_AT}(0.1, 0.5)")[3] == 0  # they are in the pictures


def test_two_hours_of_a_crowd_need_few_elements(opened: Page) -> None:
    opened.value("load(2)")
    opened.wait("!document.getElementById('notice').hidden")
    assert "run infer without --no-video" in opened.value("document.getElementById('notice').textContent")
    rows = opened.value("lines.length")
    assert rows == 120 * 20 * 2
    assert 0 < opened.value("document.querySelectorAll('.row').length") < 40
    opened.value("document.querySelector('.row:nth-of-type(8) button').focus(), rows.scrollTop = 40")
    opened.wait("rows.scrollTop === 40 && document.querySelectorAll('.row').length < 40")
    assert opened.value("document.activeElement.innerText") == "3 · wave"
    opened.value("rows.scrollTop = rows.scrollHeight")
    opened.wait("document.querySelector('.row:last-of-type span').textContent.startsWith('2400 ')")
    assert opened.value("document.querySelectorAll('*').length") < 300


def test_a_video_without_people_has_nothing_to_filter(opened: Page) -> None:
    def widths() -> list[int]:
        return opened.value("['main', '.screen', '.filter'].map((s) => document.querySelector(s).clientWidth)")

    opened.click("#none")
    assert widths()[2] > 200, "the way back from a filter that nobody passes"
    opened.value("load(3)")
    whole, screen, gone = widths()
    assert (gone, whole - screen) == (0, 32), "the rest is the padding of the page"
    assert opened.value("document.getElementById('count').textContent") == "nobody was found"
    opened.value("load(0)")
    assert widths()[2] > 200


def test_a_phone_scrolls_the_page_and_the_timeline_only(opened: Page) -> None:
    opened.show(390, 844, phone=True)
    for video in (0, 2):
        opened.value(f"load({video})")
        opened.value("seek(1000)")
        opened.wait("document.getElementById('now').value.includes('1: walk')")
        assert opened.value(
            "[...document.querySelectorAll('*')]"
            ".filter((e) => /auto|scroll/.test(getComputedStyle(e).overflowY) && e.scrollHeight > e.clientHeight)"
            ".map((e) => e.id)"
        ) == ["rows"] * (video == 2)


def test_what_is_below_the_list_of_people_stays_where_it_is(opened: Page) -> None:
    opened.show(390, 844, phone=True)
    opened.value("load(2)")
    places = opened.value(
        "[0, 3600000, 1000].map((ms) => { draw(ms); return document.querySelector('.timeline').offsetTop; })"
    )
    assert places[0] < places[1] == places[2]


def test_labels_of_people_in_one_place_do_not_cover_each_other(opened: Page) -> None:
    places = opened.value("""(() => {
        const taken = [];
        const there = { box: [0.4, 0, 0.6, 0.5], actions: [[1, 900]] };
        for (const id of [1, 2, 3]) drawLabels(cleared(boxes), { id, ...there }, taken);
        return taken.map(([, top, , bottom]) => [top, bottom]).sort((a, b) => a[0] - b[0]);
    })()""")
    assert places[0][0] >= 0
    assert all(one[1] <= other[0] for one, other in pairwise(places))


@pytest.mark.parametrize("video", [0, 1, 2, 3])
def test_a_phone_needs_no_sideways_scrolling(opened: Page, video: int) -> None:
    opened.show(390, 844, phone=True)
    opened.value(f"load({video})")
    assert opened.value("innerWidth") == 390
    assert opened.value("document.documentElement.scrollWidth") == 390
    tops = opened.value("['.screen', '.timeline', '.filter'].map((s) => document.querySelector(s).offsetTop)")
    assert video == 3 or tops == sorted(tops)


def test_dark_mode_has_a_dark_page(opened: Page) -> None:
    colour = (
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)"
    )
    assert opened.value(colour) > 600
    opened.show(1280, 900, dark=True)
    assert opened.value(colour) < 150


def test_controls_have_names(opened: Page) -> None:
    unnamed = opened.value(
        "[...document.querySelectorAll('button, select, input')]"
        ".filter((e) => !(e.innerText.trim() || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert unnamed == []
