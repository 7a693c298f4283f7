"""The page as a text: nothing in it leads outside, and no name breaks out of the data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lightning_channels import ChannelMutator, ConfigError, PrepareError, render_report, save_report
from tests.reporting.nets import NASTY, STREAM, hostile, prepared


class Elements(HTMLParser):
    """The elements of a page: (tag, attributes, text)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self._inside = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))
        self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for name, attributes, text in self.found if name == tag]


def data_of(page: str) -> Any:
    ((_, text),) = [item for item in Elements(page).of("script") if item[0].get("type") == "application/json"]
    return json.loads(text)


def test_the_page_is_one_file_that_loads_nothing() -> None:
    elements = Elements(render_report(prepared(), title="A report"))
    tags = [tag for tag, _, _ in elements.found]
    assert tags == [
        "html",
        "head",
        "meta",
        "meta",
        "meta",
        "meta",
        "title",
        "style",
        "body",
        "noscript",
        "script",
        "script",
    ]
    assert not any({"src", "href", "style"} & set(attributes) for _, attributes, _ in elements.found)
    (_, style), (_, script) = elements.of("style")[0], elements.of("script")[1]
    assert "@import" not in style
    assert "url(" not in style
    assert re.findall(r"https?://[^\"]*", script) == ["http://www.w3.org/2000/svg"]  # a name, which is never fetched
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch\(|XMLHttp", script
    )


def test_its_policy_allows_its_own_style_and_script_alone() -> None:
    elements = Elements(render_report(prepared()))
    (policy,) = [a["content"] for a, _ in elements.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    texts = {"style-src": elements.of("style")[0][1], "script-src": elements.of("script")[1][1]}
    expected = ["default-src 'none'"]
    for kind, text in texts.items():
        expected.append(f"{kind} 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
    assert policy == "; ".join(expected)


def test_hostile_names_stay_data() -> None:
    mutator = hostile()
    title = "</title><script>alert('1')</script>&amp;"
    page = render_report(mutator, title=title)
    plain = Elements(render_report(prepared()))
    assert [tag for tag, _, _ in Elements(page).found] == [tag for tag, _, _ in plain.found]
    data = data_of(page)
    assert data["title"] == title
    assert data["model"] == "</title><script>hacked = 4</script>"
    labels = {unit["label"] for unit in data["units"]}
    assert any(NASTY[1] in label for label in labels)
    (_, shown) = Elements(page).of("title")[0]
    assert shown == title
    raw = page.split('id="data">')[1].split("</script>")[0]
    assert not set(raw) & {"<", ">", "&"}


def test_lone_surrogates_can_be_written(tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module("half \ud83d", nn.Linear(4, 4))
    model.add_module("last", nn.Linear(4, 2))
    mutator = ChannelMutator(parse_cfg={"type": "ForwardTracer", "input_shape": [1, 4]})
    mutator.prepare_from_supernet(model)
    page = save_report(mutator, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "half \ud83d" in {unit["label"] for unit in data_of(page)["units"]}


def test_the_same_state_gives_the_same_page_and_stays() -> None:
    mutator = prepared()
    mutator.set_choices({STREAM: 4})
    first = render_report(mutator)
    assert first == render_report(mutator)
    assert mutator.current_choices[STREAM] == 4
    mutator.set_choices({STREAM: 6})
    assert first != render_report(mutator)


def test_a_report_is_saved_whole(tmp_path: Path) -> None:
    mutator = prepared()
    path = save_report(mutator, tmp_path / "new" / "report.html", title="Mine")
    assert path.read_text(encoding="utf-8") == render_report(mutator, title="Mine")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    mutator = prepared()
    with pytest.raises(ConfigError, match=r"a report is a page; '.*report\.pdf' must end in \.html"):
        save_report(mutator, tmp_path / "report.pdf")
    with pytest.raises(ConfigError, match="the title of a report must be a string, got 3"):
        render_report(mutator, title=3)  # type: ignore[arg-type]
    with pytest.raises(PrepareError, match="no model is prepared"):
        save_report(ChannelMutator(), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
