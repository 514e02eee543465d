"""The page: everything in one file, every text escaped, every link alive, and at work in a browser."""

import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from newllm.publication.leaderboard import read_board
from newllm.publication.leaderboard_page import render
from tests.publication.board_records import write_record

LARGEST_BYTES = 6_000_000


@pytest.fixture
def page(tmp_path):
    """A page over two budgets and a broken file, in a folder of its own."""
    for seed, bits in enumerate((1.90, 1.91, 1.92)):
        write_record(tmp_path / "runs" / f"pythia {seed}", "pythia", seed, bits)
        write_record(tmp_path / "runs" / f"mla{seed}", "mla", seed, bits + 0.05, kept=1024.0)
    write_record(tmp_path / "runs" / "cascade", "cascade-oacd", 0, 2.3, kept=0.0)
    write_record(tmp_path / "runs" / "narrow", "narrow", 0, 2.1, kept=5120.0)
    write_record(tmp_path / "runs" / "tiny", "pythia", 0, 3.1, size="tiny")
    write_record(tmp_path / "runs" / "evil", "ka", 0, 2.2, kept=9000.0, processor='<script>alert("x")</script>')
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "record.json").write_text('{"arm": "<img src=x>"}')
    target = tmp_path / "pages" / "leaderboard.html"
    target.parent.mkdir()
    target.write_text(render(read_board([tmp_path / "runs"]), target), encoding="utf-8")
    return target


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    handle_startendtag = handle_starttag


def tags(page):
    parser = Tags()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.seen


def test_it_stands_alone(page):
    seen = tags(page)
    assert page.stat().st_size < LARGEST_BYTES
    assert not [tag for tag, given in seen if "src" in given or tag in {"img", "iframe", "link", "object"}]
    links = [given["href"] for tag, given in seen if "href" in given]
    assert not [link for link in links if re.match(r"\w+:|//", link)]
    assert "default-src 'none'" in page.read_text(encoding="utf-8")


def test_links_lead_to_records_and_rows(page):
    seen = tags(page)
    names = {given["id"] for _, given in seen if "id" in given}
    links = [given["href"] for _, given in seen if "href" in given]
    files = [link for link in links if not link.startswith("#")]
    assert len(files) == 10
    assert all((page.parent / unquote(link)).resolve().is_file() for link in files)
    assert {link[1:] for link in links if link.startswith("#")} <= names


def test_texts_of_records_are_escaped(page):
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert "<img" not in text
    assert "<b>said</b>" not in text
    assert text.count("<script>") == 1


def test_tables_have_heads_and_rows_lead_to_their_record(page):
    text = page.read_text(encoding="utf-8")
    heads = [given for tag, given in tags(page) if tag == "th"]
    assert all("scope" in given for given in heads)
    for expected in (
        "0123456789ab",
        "torch 2.13.0",
        "Some Processor",
        "projection_samples: 1000",
        "not a record of this",
    ):
        assert expected in text


def test_the_machine_s_folders_are_not_in_it(page, tmp_path):
    assert str(tmp_path) not in page.read_text(encoding="utf-8")


def test_a_page_without_results_says_so(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "record.json").write_text("{}")
    text = render(read_board([tmp_path]), tmp_path / "page.html")
    assert "0 results" in text
    assert "1 file set apart" in text


@pytest.fixture
def browser():
    """A headless Chromium; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with playwright.sync_playwright() as driver:
        try:
            opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error:
            pytest.skip("no Chromium is installed")
        yield opened
        opened.close()


def test_sorting_and_filtering_in_a_browser(browser, page):
    papers = {}
    for scheme in ("light", "dark"):
        tab = browser.new_page(color_scheme=scheme)
        troubles: list[str] = []
        tab.on("pageerror", lambda error, troubles=troubles: troubles.append(str(error)))
        tab.on("console", lambda message, troubles=troubles: troubles.append(message.text))
        tab.on("request", lambda request, troubles=troubles: troubles.append(request.url))
        tab.goto(page.as_uri())
        papers[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert troubles == [page.as_uri()]
    assert papers["light"] != papers["dark"]

    def shown():
        rows = tab.locator("section[data-size] >> nth=0").locator("tbody[data-row]:visible")
        return [row.get_attribute("data-arm") for row in rows.all()]

    assert shown() == ["pythia", "mla", "narrow", "ka", "cascade-oacd"]
    by_bytes = tab.locator("button[data-key=kv_bytes_per_token] >> nth=0")
    by_bytes.focus()
    tab.keyboard.press("Enter")
    assert shown() == ["cascade-oacd", "mla", "narrow", "pythia", "ka"]
    tab.keyboard.press("Enter")
    assert shown() == ["ka", "pythia", "narrow", "mla", "cascade-oacd"]
    assert by_bytes.locator("xpath=..").get_attribute("aria-sort") == "descending"

    front = tab.locator(".picture .front >> nth=0")
    before = front.get_attribute("points")
    tab.fill("input[name=seeds]", "3")
    assert shown() == ["pythia", "mla"]
    assert tab.text_content("#count") == "2 of 6 rows"
    assert tab.locator(".picture >> nth=0").locator(".point:visible").count() == 2
    tab.fill("input[name=seeds]", "1")
    tab.fill("input[name=text]", "NARR")
    assert shown() == ["narrow"]
    assert len(front.get_attribute("points").split()) == 1 < len(before.split())
    tab.fill("input[name=text]", "")
    tab.check("input[name=front]")
    assert set(shown()) == {"mla", "pythia"}
    tab.uncheck("input[name=front]")
    tab.select_option("select[name=size]", "tiny")
    assert shown() == []
    tab.select_option("select[name=size]", "")

    tab.locator("tbody[data-arm=mla] details > summary >> nth=0").click()
    assert tab.locator("tbody[data-arm=mla] tbody tr:visible").count() == 3
