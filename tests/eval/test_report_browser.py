"""The HTML report in a real browser (Chromium without a window): what it shows after its script ran."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from stal_eval.report import write_report
from tests.eval.report_case import CLASSES, TITLE, make_case

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=4000",
)
# Acts as a reader would, then leaves what it saw in the page.
PROBE = """
<pre id="probe"></pre><script>
const names = () => [...document.querySelectorAll(".classes tbody")].map((body) => body.rows[0].cells[0].dataset.value);
const shown = (element) => element.getClientRects().length > 0;
const seen = { width: innerWidth, page: document.documentElement.scrollWidth, first: names() };
seen.open = [...document.querySelectorAll(".detail")].filter(shown).length;
seen.curves = [...document.querySelectorAll("[data-curve] > svg")].filter(shown).length;
seen.axes = [...document.querySelectorAll("#capacity text")].map((text) => text.textContent);
const wide = document.querySelector(".classes").parentElement;
seen.table = wide.scrollWidth - wide.clientWidth;
seen.dark = getComputedStyle(document.body).backgroundColor;
const heads = [...document.querySelectorAll(".classes thead button")];
heads[0].click();
seen.byName = names();
heads[0].click();
seen.byNameBack = names();
heads[1].click();
heads[1].click();
seen.byApBest = names();
const rows = [...document.querySelectorAll(".classes tbody")];
rows.forEach((body) => body.querySelector("button").getAttribute("aria-expanded") === "false" && body.rows[0].click());
seen.openAll = [...document.querySelectorAll(".detail")].filter(shown).length;
const curves = [...document.querySelectorAll("[data-curve]")];
seen.curveAxes = curves.map((host) => host.textContent.includes("precision (points"));
document.querySelector("[name=point][value=at_50]").click();
seen.points = [...new Set([...document.querySelectorAll("[data-point]")].filter(shown).map((e) => e.dataset.point))];
const svg = document.querySelector("#capacity > svg");
const box = svg.getBoundingClientRect();
svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + 50 }));
seen.readout = document.querySelector("#capacity .readout").textContent;
seen.loaded = performance.getEntriesByType("resource").map((entry) => entry.name.slice(0, 15));
document.getElementById("probe").textContent = JSON.stringify(seen);
</script></body>
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]


def browse(page: Path, folder: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a file; return its DOM after the script ran, and what it wrote to the console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    case = make_case(folder / "data")
    return write_report(case.result, folder, title=TITLE, frames=case.dataset)


def probe(report: Path, folder: Path, *flags: str) -> dict[str, Any]:
    """Return what the probe sees in a copy of the page, whose policy would refuse a foreign script."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text())
    copy = folder / "copy.html"
    copy.write_text(text.replace("</body>", PROBE))
    dom, console = browse(copy, folder, *flags)
    assert console == []
    seen = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    assert seen is not None
    result: dict[str, Any] = json.loads(unescape(seen[1]))
    return result


def test_the_page_runs_under_its_own_policy_without_a_word_on_the_console(report: Path, tmp_path: Path) -> None:
    dom, console = browse(report, tmp_path)
    assert console == []
    assert 'class="scripted"' in dom
    assert dom.count('<svg viewBox="0 0 ') > 2  # charts, which only the script draws
    assert "alert(1)" in dom  # as the text of a class name


def test_the_console_check_sees_errors_and_the_policy_stops_foreign_script(report: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(
        report.read_text().replace("</body>", "<img src='https://a.test/b.png'><script>1</script></body>")
    )
    _, console = browse(broken, tmp_path)
    assert sum("Content Security Policy" in line for line in console) == 2


def test_sorting_opening_and_switching(report: Path, tmp_path: Path) -> None:
    seen = probe(report, tmp_path, "--window-size=1280,900")
    assert set(seen["first"]) == set(CLASSES)
    assert seen["first"][-1] == seen["byApBest"][-1] == "never seen"  # no AP: always last
    assert seen["byApBest"][:-1] == seen["first"][-2::-1]
    assert seen["byNameBack"] == seen["byName"][::-1]
    assert seen["byName"][-3:] == ["never seen", "walk", "wave"]
    assert (seen["open"], seen["curves"]) == (1, 1)
    assert seen["openAll"] == len(CLASSES)
    assert seen["curveAxes"] == [True] * (len(CLASSES) - 1)  # no curve without ground truth
    assert seen["points"] == ["at_50"]


def test_the_capacity_chart_has_axes_units_and_a_readout(report: Path, tmp_path: Path) -> None:
    seen = probe(report, tmp_path, "--window-size=1280,900")
    assert "mAP (points of 100)" in seen["axes"]
    assert "capacity (rows kept of each key frame)" in seen["axes"]
    assert {"1", "10", "50"} <= set(seen["axes"])
    assert re.fullmatch(r"capacity \d+: mAP \d+\.\d\d, .* over the orders of equal scores", seen["readout"])


def test_nothing_is_loaded(report: Path, tmp_path: Path) -> None:
    assert set(probe(report, tmp_path)["loaded"]) <= {"data:image/jpeg"}


def test_a_narrow_screen_needs_no_sideways_scrolling(report: Path, tmp_path: Path) -> None:
    probe(report, tmp_path)  # leaves copy.html
    frame = tmp_path / "phone.html"
    # Chromium's windows are at least 500 pixels wide, so a phone is a frame in one.
    frame.write_text(
        '<body style="margin:0"><iframe src="copy.html" style="width:390px;height:900px;border:0"></iframe><script>'
        "onload = () => document.title = frames[0].document.getElementById('probe').textContent</script>"
    )
    dom, console = browse(frame, tmp_path, "--allow-file-access-from-files")
    assert console == []
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None
    seen = json.loads(unescape(title[1]))
    assert seen["width"] == 390
    assert seen["page"] <= 390
    assert seen["table"] == 0


def test_dark_mode_has_a_dark_page(report: Path, tmp_path: Path) -> None:
    def brightness(colour: str) -> int:
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    light = probe(report, tmp_path, "--blink-settings=preferredColorScheme=1")["dark"]
    dark = probe(report, tmp_path, "--blink-settings=preferredColorScheme=0")["dark"]
    assert brightness(light) > 600
    assert brightness(dark) < 150
