"""The page in a browser that reaches nothing: it loads, sorts, filters, shows what the mouse or the keyboard is on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lightning_channels import save_report
from tests.reporting.browser import Browser, Page, find_browser
from tests.reporting.nets import HIDDEN, STREAM, attention, hostile, prepared, searched, twins
from tests.reporting.test_page import data_of

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="needs Chromium or Chrome (Debian: apt-get install chromium)"
)

Open = Callable[..., Page]
ELEMENT_TIP = "getElementById('tip')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = find_browser()
    assert path is not None
    found = Browser(path, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages that are looked at."""
    folder = tmp_path_factory.mktemp("reports")
    narrow = prepared()
    narrow.set_choices({STREAM: 4, HIDDEN: 6})
    mutator, least = prepared(), prepared()
    return {
        "search": save_report(mutator, folder / "search.html", search=searched(mutator)),
        "least": save_report(least, folder / "least.html", search=searched(least, "min")),
        "attention": save_report(attention(), folder / "attention.html"),
        "twins": save_report(twins(), folder / "twins.html"),
        "plain": save_report(narrow, folder / "plain.html"),
        "hostile": save_report(hostile(), folder / "hostile.html", title="</title><b>bold</b>"),
    }


@pytest.fixture
def show(browser: Browser, reports: dict[str, Path]) -> Iterator[Open]:
    """Open a page by name; at the end nothing may have gone wrong in it, or been loaded besides it."""
    pages: list[tuple[Page, str]] = []

    def opened(name: str, **settings: Any) -> Page:
        page = browser.open(reports[name], **settings)
        pages.append((page, reports[name].as_uri()))
        return page

    yield opened
    for page, address in pages:
        assert page.problems() == []
        assert page.requests() == [address]
        page.close()


def column(page: Page, table: str, number: int) -> list[str]:
    return page.texts(f"#{table} tbody tr > :nth-child({number})")


def sorted_as(page: Page, table: str) -> list[str]:
    found: list[str] = page.run(f"[...document.querySelectorAll('#{table} th[scope=col]')].map((e) => e.ariaSort)")
    return found


# --- what is there
# -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (420, False), (1280, True)])
def test_it_fits_and_its_colours_are_those_of_the_system(show: Open, tmp_path: Path, width: int, dark: bool) -> None:
    page = show("plain", width=width, dark=dark)
    assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.texts("h1") == ["Residual: channels"]
    assert page.texts("h2") == ["Units", "Widths", "Resources by module", "What can't change"]
    page.screenshot(tmp_path / "page.png", whole=False)
    with Image.open(tmp_path / "page.png") as picture:
        colours = picture.convert("RGB")
    assert colours.size == (width, 900)
    assert (max(colours.getpixel((2, 2))) < 60) == dark
    assert len(colours.getcolors(1 << 24)) > 50  # something is drawn


def test_the_graph_is_drawn_as_it_was_laid_out(show: Open, reports: dict[str, Path]) -> None:
    page = show("plain")
    data = data_of(reports["plain"].read_text(encoding="utf-8"))
    corner = page.run(
        "(() => { const b = document.querySelector('#graph').getBoundingClientRect(); return [b.x, b.y]; })()"
    )
    drawn = page.run(
        "[...document.querySelectorAll('.unit .box')].map((e) => e.getBoundingClientRect()).map((b) => [b.x, b.y])"
    )
    shifted = [[x - corner[0], y - corner[1]] for x, y in drawn]
    assert shifted == [pytest.approx(node, abs=0.01) for node in data["graph"]["nodes"]]
    assert len(page.texts(".wire")) == len(data["graph"]["wires"]) == 4
    inside = (
        "[...document.querySelectorAll('.unit')].every((e) => { const b = e.querySelector('.box').getBBox();"
        "const [l, c] = e.querySelectorAll('text'); const bar = e.querySelector('.track').getBBox();"
        "return l.getBBox().width < b.width - 12 && c.getBBox().x > bar.x + bar.width; })"
    )
    assert page.run(inside)  # with the fonts that are there
    assert page.texts(".unit .count") == ["3", "4/8", "6/12", "5"]


def test_hostile_names_are_shown_as_they_are(show: Open, reports: dict[str, Path]) -> None:
    page = show("hostile")
    data = data_of(reports["hostile"].read_text(encoding="utf-8"))
    assert page.run("typeof hacked") == "undefined"
    assert page.texts("h1") == ["</title><b>bold</b>"]
    assert page.run("document.title") == "</title><b>bold</b>"
    assert column(page, "units", 1) == [unit["name"] for unit in data["units"]]
    assert page.run("document.querySelectorAll('img, b b, script').length") == 2  # the data and the script
    page.hover(".unit:nth-child(2)")
    assert page.texts("#tip strong") == [data["units"][1]["name"]]


# --- tables
# -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["click", "Enter", " "])
def test_tables_sort_by_a_heading(show: Open, reports: dict[str, Path], how: str) -> None:
    page = show("plain")
    modules = data_of(reports["plain"].read_text(encoding="utf-8"))["modules"]
    names = [module["name"] or "the model" for module in modules]
    macs = {module["name"] or "the model": module["macs"][0] for module in modules if "macs" in module}
    most = sorted(macs, key=lambda name: -macs[name])  # equal ones stay in the network's order
    least = sorted(macs, key=lambda name: macs[name])
    without = [name for name in names if name not in macs]
    assert column(page, "modules", 1) == names
    third = "#modules th:nth-child(3) button"
    expected = [(most + without, "descending"), (least + without, "ascending"), (names, "none")]
    for order, state in expected:
        page.click(third) if how == "click" else page.press(third, how)
        assert column(page, "modules", 1) == order
        assert sorted_as(page, "modules")[2] == state
    page.click("#modules th:nth-child(1) button")
    assert column(page, "modules", 1) == sorted(names)
    assert [state for state in sorted_as(page, "modules") if state != "none"] == ["ascending"]


def test_reasons_are_within_a_narrow_window(show: Open) -> None:
    page = show("twins", width=400)
    edges = page.run(
        "[...document.querySelectorAll('#fixed td:nth-child(2)')].map((e) => e.getBoundingClientRect().right)"
    )
    assert page.texts("#fixed td:nth-child(2)")[-1].startswith("spare.weight is not used")
    assert edges
    assert max(edges) < 400


def test_attentions_have_a_table_of_their_own(show: Open) -> None:
    page = show("attention")
    assert page.texts("h2")[:3] == ["Units", "Widths", "Attention"]
    assert page.texts("#attentions tbody tr > *") == ["1.self_attn", "2", "4", "4", "4"]


def test_tables_filter_by_words(show: Open) -> None:
    page = show("plain")
    assert page.texts("#modules-section .count") == ["6 rows"]
    page.type("#modules-filter", "conv2D c")
    assert column(page, "modules", 1) == ["stem", "conv1", "conv2"]
    assert page.texts("#modules-section .count") == ["3 of 6 rows"]
    page.type("#modules-filter", "nothing like it")
    assert column(page, "modules", 1) == []


# --- the graph
# -----------------------------------------------------------------------------------------------------------------


def tip(page: Page) -> list[str] | None:
    return page.texts("#tip dt, #tip dd") if page.run("!document.querySelector('#tip').hidden") else None


def test_a_unit_under_the_mouse_is_explained(show: Open) -> None:
    page = show("plain")
    assert tip(page) is None
    page.hover(f'[data-unit="{STREAM}"]')
    found = tip(page)
    assert found is not None
    assert dict(zip(found[::2], found[1::2], strict=True)) == {
        "channels": "4 of 8",
        "may be": "2, 4, 6, 8",
        "type": "SequentialMutableChannelUnit",
        "written by": "stem, conv2",
        "read by": "conv1, head",
        "through": "norm",
        "parameters": found[-1],
    }
    assert len(page.texts(".wire.lit")) == 4  # what it reads and what reads it
    assert page.run(
        "(() => { const b = document.querySelector('#tip').getBoundingClientRect();"
        "return b.left >= 0 && b.top >= 0 && b.right <= innerWidth && b.bottom <= innerHeight; })()"
    )
    page.hover("h1")
    assert tip(page) is None
    assert page.texts(".wire.lit") == []


def test_the_keyboard_goes_from_unit_to_unit(show: Open) -> None:
    page = show("plain")
    page.press(".unit", "ArrowDown")
    assert page.run("document.activeElement.dataset.unit") == STREAM
    found = tip(page)
    assert found is not None
    assert "4 of 8" in found
    page.press(f'[data-unit="{STREAM}"]', "Enter")
    assert page.texts("#units tr[aria-selected] th") == [STREAM]
    page.press(f'[data-unit="{STREAM}"]', "Escape")
    assert tip(page) is None
    assert page.run("[...document.querySelectorAll('.unit')].filter((e) => e.tabIndex === 0).length") == 1


def test_what_the_keyboard_scrolls_to_is_explained(show: Open) -> None:
    page = show("plain", height=420)
    page.run("window.scrollTo(0, 0)")
    page.press(".unit", "ArrowDown")
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.run("window.scrollY") > 0
    assert tip(page) is not None
    unit, box = (page.run(f"document.{one}.getBoundingClientRect().toJSON()") for one in ("activeElement", ELEMENT_TIP))
    assert box["top"] == pytest.approx(unit["bottom"] + 10) or box["bottom"] == pytest.approx(unit["top"] - 10)
    page.run("document.activeElement.blur()")
    assert tip(page) is None


def test_units_of_one_name_are_told_apart(show: Open) -> None:
    page = show("twins")
    labels = page.texts(".unit .label")
    assert labels == ["→ used", "used", "head", "→ spare", "spare"]
    for place in (3, 4):
        page.run(f"document.querySelectorAll('.unit')[{place}].dispatchEvent(new MouseEvent('click'))")
        chosen = "[...document.querySelectorAll('#units tbody tr')].findIndex((row) => row.ariaSelected)"
        assert page.run(chosen) == place
    assert len(set(page.texts("#units tbody th")[3:])) == 1


# --- a search
# -----------------------------------------------------------------------------------------------------------------


def search_in(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = data_of(path.read_text(encoding="utf-8"))["search"]
    return found


def front_in(page: Page) -> set[int]:
    return set(page.run("[...document.querySelectorAll('.point.on-front')].map((e) => Number(e.dataset.candidate))"))


@pytest.mark.parametrize("name", ["search", "least"])
def test_the_front_is_the_searchs(show: Open, reports: dict[str, Path], name: str) -> None:
    page, search = show(name), search_in(reports[name])
    assert front_in(page) == set(search["front"])
    assert len(front_in(page)) > 1
    assert page.run("document.querySelector('.point.best').dataset.candidate") == str(search["best"])
    limit = search["limits"]["macs"]
    over = {at for at, own in enumerate(search["candidates"]) if own["resources"]["macs"] > limit}
    shown = page.run("[...document.querySelectorAll('.point.over')].map((e) => Number(e.dataset.candidate))")
    assert set(shown) == over != set()


def test_points_stand_where_their_numbers_are(show: Open, reports: dict[str, Path]) -> None:
    page, candidates = show("search"), search_in(reports["search"])["candidates"]

    def shown() -> dict[int, tuple[float, float]]:
        found = page.run(
            "[...document.querySelectorAll('.point')].map((e) =>"
            "[Number(e.dataset.candidate), Number(e.getAttribute('cx')), Number(e.getAttribute('cy'))])"
        )
        return {place: (x, y) for place, x, y in found}

    points = shown()
    assert on_a_line([x for x, _ in points.values()], [candidates[at]["resources"]["macs"] for at in points])
    assert on_a_line([-y for _, y in points.values()], [candidates[at]["metrics"]["val_acc"] for at in points])
    select(page, "#front-x", "params")
    assert page.texts(".axis") == ["parameters", "val_acc"]
    moved = shown()
    assert on_a_line([x for x, _ in moved.values()], [candidates[at]["resources"]["params"] for at in moved])
    select(page, "#front-y", "val_loss")
    assert set(shown()) == {at for at, own in enumerate(candidates) if "val_loss" in own["metrics"]} < set(points)
    assert front_in(page) == set()  # whether more of it is better isn't known


def on_a_line(places: list[float], values: list[float]) -> bool:
    """Whether places in pixels are a linear and rising function of values; they are rounded to a tenth."""
    first, last = (pick(range(len(values)), key=lambda at: values[at]) for pick in (min, max))
    slope = (places[last] - places[first]) / (values[last] - values[first])
    wanted = [places[first] + slope * (value - values[first]) for value in values]
    return slope > 0 and places == pytest.approx(wanted, abs=0.2)


def select(page: Page, selector: str, value: str) -> None:
    page.run(
        f"(e => {{ e.value = '{value}'; e.dispatchEvent(new Event('change')); }})(document.querySelector('{selector}'))"
    )


def test_a_candidate_is_explained_and_chosen(show: Open, reports: dict[str, Path]) -> None:
    page, search = show("search"), search_in(reports["search"])
    place = search["front"][0]
    candidate = search["candidates"][place]
    page.hover(f'.point[data-candidate="{place}"]')
    found = tip(page)
    assert found is not None
    said = dict(zip(found[::2], found[1::2], strict=True))
    assert float(said["val_acc"]) == pytest.approx(candidate["metrics"]["val_acc"], rel=1e-5)
    assert said["widths"] == f"stem {candidate['widths'][0]}, conv1 {candidate['widths'][1]}"
    before = page.texts(".unit .count")
    page.click(f'.point[data-candidate="{place}"]')
    assert page.texts("#candidates tr[aria-selected] th") == [str(place)]
    assert page.texts(".said") == [f"Widths of candidate {place}."]
    numbers = [text.split("/")[0] for text in page.texts(".unit .count")[1:3]]
    assert numbers == [str(width) for width in candidate["widths"]]
    page.click("#graph-section .tools button:nth-child(2)")
    assert page.texts(".unit .count") == before
    other = search["best"]
    page.click(f'#candidates tr[data-key="{other}"]')
    assert page.run("document.querySelector('.point.chosen').dataset.candidate") == str(other)


def test_a_candidate_is_chosen_by_keyboard(show: Open) -> None:
    page = show("search")
    page.click("#candidates th:nth-child(3) button")
    order = column(page, "candidates", 1)
    stops = "[...document.querySelectorAll('#candidates tbody tr')].filter((e) => e.tabIndex === 0).length"
    assert page.run(stops) == 1
    page.press("#candidates tbody tr", "ArrowDown")
    assert page.run("document.activeElement.dataset.key") == order[1]
    page.press(f'#candidates tr[data-key="{order[1]}"]', "Enter")
    assert page.texts(".said") == [f"Widths of candidate {order[1]}."]
    assert page.texts("#candidates tr[aria-selected] th") == [order[1]]
    assert page.run(stops) == 1


def test_candidates_sort_by_what_is_missing_last(show: Open, reports: dict[str, Path]) -> None:
    page, candidates = show("search"), search_in(reports["search"])["candidates"]
    number = 1 + page.texts("#candidates th[scope=col]").index("val_loss")
    page.click(f"#candidates th:nth-child({number}) button")
    loss = {str(at): own["metrics"].get("val_loss") for at, own in enumerate(candidates)}
    known = [name for name in loss if loss[name] is not None]
    missing = [name for name in loss if loss[name] is None]
    assert column(page, "candidates", 1) == sorted(known, key=lambda name: -loss[name]) + missing
