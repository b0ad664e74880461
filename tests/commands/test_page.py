"""The page: what it says, and in a real browser how it works, by mouse and by keyboard."""

import base64
import io
import shutil

import nbformat
import pytest
from PIL import Image

from fedlib.commands import page
from fedlib.papers import claims, output
from fedlib.settings import presets

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
TABLE = """<style>td {color: red}</style><script>alert(1)</script>
<table id="T_1" onclick="alert(2)"><thead><tr><th>method</th><th>md_judge (paper)</th></tr></thead>
<tbody><tr><td>FedAvg</td><td>9.50 [8, 11]</td></tr><tr><td>Krum</td><td></td></tr>
<tr><td>Level 2</td><td>83.00</td></tr></tbody></table>"""


def picture():
    file = io.BytesIO()
    Image.new("RGB", (900, 300), "white").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def lay(settings, name, *outputs, **papermill):
    """An executed notebook of three cells: prose, code without output, code with outputs."""
    new = nbformat.v4
    made = new.new_notebook(metadata={"papermill": {"start_time": "2026-01-02T03:04"} | papermill})
    made.cells = [
        new.new_markdown_cell(
            f"# Title of {name}\n\n## Part\n\nSee [this](10_a.ipynb), [no](x.md)."
        ),
        new.new_code_cell("first = 1", execution_count=1),
        new.new_code_cell("second = 2", outputs=list(outputs), execution_count=2),
    ]
    nbformat.write(made, output.preset_folder(settings, "executed") / f"{name}.ipynb")


def shown(**data):
    kinds = {"html": "text/html", "png": "image/png", "plain": "text/plain"}
    data = {kinds[name]: value for name, value in data.items()}
    return nbformat.v4.new_output("display_data", data=data)


def write(settings, coming=(), again=""):
    """The page of five notebooks: done, failed, unfinished, and two that are not there."""
    trace = ["\x1b[31mline 3\x1b[0m"]
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="a < b", traceback=trace)
    lay(settings, "10_a", shown(html=TABLE), shown(png=picture(), plain="<Figure>"), end_time="x")
    lay(settings, "11_b", error, exception=True, end_time="x")
    lay(settings, "20_c", shown(plain="1 < 2"))
    claims.record_claim(settings, "S1-rule-lmsys-like-full", [30.0, 31.0, 29.0, 30.0, 30.0])
    executed = output.preset_folder(settings, "executed")
    names = ["10_a", "11_b", "20_c", "30_d", "90_e"]
    return page.Page(settings, executed, names).write(coming, again)


# ---- what it says


@pytest.fixture
def text(store):
    return write(presets.load("smoke"), ["20_c", "30_d"]).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "said",
    [
        "1 of 5 notebooks are done. Reload this page",
        "done, executed 2026-01-02 03:04",
        "failed, executed",
        "unfinished, begun 2026-01-02 03:04, 2 of 2 cells so far",
        '<p class="state waiting">waiting',
        '<p class="state not-run">not run',
        "<small>higher is safer</small>",
        "ValueError: a &lt; b",
        "1 &lt; 2",
        'href="#10_a">this</a>, no.',
        "30 [29.1, 30.9]",
        'href="#10_safety_table1">S1-rule-lmsys-like-full</a>',
    ],
)
def test_the_page_says(text, said):
    assert said in text


@pytest.mark.parametrize("kept_out", ["alert(", "color: red", "T_1", "\x1b", "x.md"])
def test_what_was_shown_brings_nothing_of_its_own(text, kept_out):
    assert kept_out not in text


def test_only_what_has_changed_is_read_again(store, monkeypatch):
    smoke = presets.load("smoke")
    write(smoke)
    executed = output.preset_folder(smoke, "executed")
    made = page.Page(smoke, executed, ["10_a", "11_b"])
    assert made.changed()
    made.write()
    assert not made.changed()

    read = []
    real = page._executed_part
    monkeypatch.setattr(page, "_executed_part", lambda file, _: read.append(file) or real(file, _))
    lay(smoke, "11_b", shown(plain="new"), end_time="x")
    assert made.changed()
    assert "new</pre>" in made.write().read_text(encoding="utf-8")
    assert [file.stem for file in read] == ["11_b"]

    # a file that is just being written: what was read before stays
    (executed / "11_b.ipynb").write_text('{"cells": [', encoding="utf-8")
    assert "new</pre>" in made.write().read_text(encoding="utf-8")


def test_the_page_says_how_to_go_on(store):
    written = write(presets.load("smoke"), again="fedlib x").read_text(encoding="utf-8")
    assert "To go on: <code>fedlib x</code>" in written and "Reload" not in written


# ---- in a browser


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="extra browser is not installed")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium on this machine")
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLIB_OUTPUTS", str(tmp_path_factory.mktemp("page")))
        yield write(presets.load("smoke"))


@pytest.fixture
def opened(browser, file):
    """open(size, scheme): the page in a window; at the end nothing was loaded, nothing failed."""
    contexts, asked, wrong = [], [], []

    def open_page(size=WIDE, scheme="light"):
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        tab = contexts[-1].new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.goto(file.resolve().as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong
    assert all(url.startswith(("file:///", "data:")) for url in asked)
    assert len([url for url in asked if url.startswith("file:")]) == len(contexts)


def test_tables_are_sorted_by_numbers_and_what_is_missing_stays_last(opened):
    tab = opened()
    table = tab.locator("[id='10_a'] table")
    button = table.get_by_role("button", name="md_judge")
    column = table.locator("tbody tr td:first-child")
    button.focus()
    tab.keyboard.press("Enter")
    assert column.all_inner_texts() == ["FedAvg", "Level 2", "Krum"]
    assert table.locator("th").nth(1).get_attribute("aria-sort") == "ascending"
    tab.keyboard.press("Enter")
    assert column.all_inner_texts() == ["Level 2", "FedAvg", "Krum"]
    assert table.locator("th").nth(1).get_attribute("aria-sort") == "descending"


def test_figures_are_enlarged_and_escape_closes_them(opened):
    tab = opened()
    figure = tab.locator("[id='10_a'] .enlarge")
    figure.focus()
    tab.keyboard.press("Enter")
    dialog = tab.get_by_role("dialog")
    assert dialog.is_visible()
    assert dialog.locator("img").get_attribute("alt") == "Figure: Part"
    tab.keyboard.press("Escape")
    assert not dialog.is_visible()
    # and one is where one was
    assert tab.evaluate("document.activeElement.className") == "enlarge"


def test_code_opens_cell_by_cell_and_all_at_once(opened):
    tab = opened()
    code = tab.locator("details.code")
    assert tab.get_by_text("second = 2").first.is_hidden()
    code.first.locator("summary").click()
    assert [one.get_attribute("open") is not None for one in code.all()] == [True, False, False]
    tab.get_by_role("button", name="Show all code").click()
    assert all(one.get_attribute("open") is not None for one in code.all())
    # a cell that shows nothing opens with the next
    assert "first = 1" in code.first.inner_text() and "second = 2" in code.first.inner_text()
    tab.get_by_role("button", name="Hide all code").click()
    assert all(one.get_attribute("open") is None for one in code.all())


PAINT = """() => {
  const seen = (one) => getComputedStyle(one);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = seen(one).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
  };
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const line = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * line[0] + 0.7152 * line[1] + 0.0722 * line[2];
  };
  const texts = [...document.querySelectorAll("body *")].filter((one) =>
    [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) &&
    !one.closest("script, svg, option") && one.getClientRects().length);
  return texts.map((one) => {
    const [a, b] = [light(seen(one).color), light(behind(one))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), one.textContent.trim().slice(0, 40)];
  });
}"""


@pytest.mark.parametrize("chosen, scheme", [("", "light"), ("", "dark"), ("dark", "light")])
def test_text_can_be_read_in_both_themes(opened, chosen, scheme):
    """Contrast of at least 4.5 to 1 (WCAG AA) for each text that is shown."""
    tab = opened(scheme=scheme)
    tab.get_by_label("Theme").select_option(chosen)
    tab.get_by_role("button", name="Show all code").click()
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == ("dark" in (chosen, scheme))
    contrasts = tab.evaluate(PAINT)
    assert len(contrasts) > 100
    assert [found for found in contrasts if found[0] < 4.5] == []


def test_a_phone_shows_all_without_scrolling_sideways(opened):
    tab = opened(PHONE)
    tab.get_by_role("button", name="Show all code").click()
    tab.evaluate("document.querySelectorAll('main details').forEach((one) => { one.open = true; })")
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
    menu = tab.get_by_role("navigation").get_by_role("link", name="Title of 10_a")
    assert menu.is_hidden()
    tab.get_by_text("Contents", exact=True).click()
    menu.click()
    assert menu.is_hidden() and tab.url.endswith("#10_a")


OUTLINE = """() => [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")]
  .filter((one) => !one.closest("nav")).map((one) => Number(one.tagName[1]))"""
UNNAMED = """() => [...document.querySelectorAll("button, select, a, summary, dialog, nav")]
  .filter((one) => !(one.textContent.trim() || one.ariaLabel || one.labels?.length))
  .map((one) => one.outerHTML.slice(0, 80))"""


def test_a_screen_reader_finds_its_way(opened):
    tab = opened()
    levels = tab.evaluate(OUTLINE)
    assert levels[0] == 1 and levels.count(1) == 1
    steps = [after - before for before, after in zip(levels, levels[1:], strict=False)]
    assert max(steps) == 1  # no level is left out
    assert tab.evaluate(UNNAMED) == []
    for image in tab.locator("main img, svg[role=img]").all():
        assert image.get_attribute("alt") or image.get_attribute("aria-label")
    for role in ("main", "navigation", "banner"):
        assert tab.get_by_role(role).count() == 1
    assert tab.locator("html").get_attribute("lang") == "en"
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(set(ids)) == len(ids)


def test_the_keyboard_skips_the_menu_and_is_seen(opened):
    tab = opened()
    tab.keyboard.press("Tab")
    focus = "document.activeElement"
    assert tab.evaluate(f"{focus}.className") == "skip"
    assert tab.evaluate(f"{focus}.getBoundingClientRect().left") >= 0
    assert tab.evaluate(f"getComputedStyle({focus}).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    assert tab.evaluate(f"{focus}.id") == "content"


def test_the_menu_shows_where_one_is(opened):
    tab = opened()
    tab.get_by_role("link", name="Title of 20_c").click()
    current = tab.locator("nav a[aria-current]")
    current.get_by_text("Title of 20_c").wait_for(timeout=5000)
    assert current.count() == 1
