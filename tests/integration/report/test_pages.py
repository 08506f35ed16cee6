"""The report's pages in a real browser: what a reader sees on a screen, on a phone and on paper."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

from peelbound.service.report.charts import lettering
from peelbound.service.report.html import CONTENT_SECURITY_POLICY, render, render_run
from peelbound.service.schemas.report import Report
from tests.synthetic_reports.low_bit import low_bit_report, rounded_report
from tests.synthetic_reports.runs import build_record, build_series
from tests.synthetic_reports.whole import build_report, deep_report, estimate_report, frozen_report, sound_report


def with_long_names(report: Report) -> Report:
    """The deepest maps have names longer than a phone is wide."""
    long = {
        item.name: f"YES-6 {{{','.join(str(i * 11 + n) for i in range(6))}}}" for n, item in enumerate(report.networks)
    }
    networks = [item.model_copy(update={"name": long[item.name]}) for item in report.networks]
    assert report.bound is not None
    names = {"network": long[report.bound.network], "check_network": long[report.bound.check_network]}
    return report.model_copy(update={"networks": networks, "bound": report.bound.model_copy(update=names)})


PAGES = {
    "sound": render(sound_report(), record=build_record(labels={"team": "x" * 128}), series=build_series()),
    "frozen": render(frozen_report(), record=build_record(), series=build_series(frozen=True)),
    "deep": render(deep_report(30)),
    "deepest": render(deep_report(100)),
    "shallow": render(build_report(blocks=1)),
    "names": render(with_long_names(deep_report(60))),
    "estimate": render(estimate_report()),
    "rounded": render(rounded_report()),
    "rounded-deep": render(rounded_report(60)),
    "low-bit": render(low_bit_report()),
    "run": render_run(build_series(60, run="r" * 128)),
    "start": render_run(build_series(1)),
}

OVERLAPS = """() => {
  const found = [];
  for (const chart of document.querySelectorAll('.plot > svg')) {
    const boxes = [...chart.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
      const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
      const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
      if (across > 1 && down > 3) found.push(`${a} | ${b}`);
    }));
  }
  return found;
}"""

SPILLED = """() => [...document.querySelectorAll('.plot')].flatMap(plot => {
  const room = plot.getBoundingClientRect();
  return [...plot.querySelectorAll('text')].filter(t => {
    const box = t.getBoundingClientRect();
    return box.left < room.left - 1 || box.right > room.right + 1;
  }).map(t => t.textContent);
})"""

FAINT = """() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = colour => {
    const [r, g, b] = numbers(colour).map(c => c / 255).map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const solid = colour => { const [, , , a] = numbers(colour); return a === undefined || a === 1; };
  const ground = node => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (solid(colour)) return colour;
    }
  };
  const faint = new Set();
  const check = (what, front, back) => {
    const [a, b] = [luminance(front), luminance(back)];
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < 4.5) faint.add(`${what}: ${front} on ${back} = ${contrast.toFixed(2)}`);
  };
  for (const node of document.body.querySelectorAll('*')) {
    const written = [...node.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!written) continue;
    if (node instanceof HTMLElement) check(node.className || node.tagName, getComputedStyle(node).color, ground(node));
    else if (['text', 'tspan'].includes(node.tagName)) {
      const band = (node.getAttribute('class') || '').match(/band-name (\\w+)/);
      const back = band ? getComputedStyle(document.querySelector(`.band.${band[1]}`)).fill : ground(document.body);
      check(node.getAttribute('class'), getComputedStyle(node).fill, back);
    }
  }
  return [...faint];
}"""


LABELS = """() => [...document.querySelectorAll('.plot text')]
  .filter(t => !t.querySelector('tspan'))
  .map(t => {
    const style = getComputedStyle(t);
    return [t.textContent, parseFloat(style.fontSize), parseInt(style.fontWeight) >= 600, t.getComputedTextLength()];
  })"""

WIDE = "DejaVu Sans"
"""What a Linux without Arial's likes falls back on, and a tenth wider than these."""
FONTS = ["Liberation Sans", WIDE]


class Site(BaseHTTPRequestHandler):
    """Serves the pages as the API does: with their policy as a header."""

    def do_GET(self) -> None:
        body = PAGES[self.path.removeprefix("/")].encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    """One for all pages: a new one takes half a second."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser.new_context().new_page()
        browser.close()


def opened(tab: Page, url: str, *, width: int = 1200, scheme: Any = "light", media: Any = "screen") -> Page:
    tab.set_viewport_size({"width": width, "height": 800})
    tab.emulate_media(media=media, color_scheme=scheme)
    tab.goto(url)
    return tab


def in_font(page: Page, family: str) -> None:
    """Write all but code in this font, which must be there: by the object model, as the page allows no other style."""
    assert page.evaluate(
        """family => {
          document.body.style.fontFamily = `"${family}", monospace`;
          const context = document.createElement('canvas').getContext('2d');
          const measured = font => { context.font = `16px ${font}`; return context.measureText('mmm iii').width; };
          return measured(`"${family}", monospace`) !== measured('monospace');
        }""",
        family,
    ), f"{family} is not installed: scripts/install-debian.sh"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_nothing_else_and_complains_about_nothing(tab: Page, site: str, name: str) -> None:
    page = tab.context.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{site}/{name}", wait_until="networkidle")
    assert requests == [f"{site}/{name}"]
    assert complaints == []
    page.close()


@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_runs_off_the_page_and_no_label_touches_another(tab: Page, site: str, name: str, font: str) -> None:
    page = opened(tab, f"{site}/{name}")
    in_font(page, font)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    for width in (360, 768, 1200):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OVERLAPS) == []
        assert page.evaluate(SPILLED) == []


@pytest.mark.parametrize("name", PAGES)
def test_charts_expect_letters_at_least_as_wide_as_the_widest_fonts(tab: Page, site: str, name: str) -> None:
    page = opened(tab, f"{site}/{name}")
    in_font(page, WIDE)
    labels = page.evaluate(LABELS)
    assert labels
    assert [label for label, size, bold, wide in labels if wide > lettering.width(label, size, bold=bold)] == []


@pytest.mark.parametrize("name", ["frozen", "deep", "estimate", "run"])
def test_text_is_legible_in_both_schemes(tab: Page, site: str, name: str) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        page = opened(tab, f"{site}/{name}", scheme=scheme)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.evaluate(FAINT) == []
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]


def test_charts_are_images_with_a_name_and_a_description(tab: Page, site: str) -> None:
    page = opened(tab, f"{site}/frozen")
    for name in ("Gains on fit", "Gains on check", "Evidence per block", "YES cloud on fit", "YES cloud on check"):
        image = page.get_by_role("img", name=name)
        assert image.count() == 1
        assert len(image.locator("desc").first.text_content() or "") > 40


def test_the_chart_of_a_hundred_blocks_scrolls_within_itself(tab: Page, site: str) -> None:
    page = opened(tab, f"{site}/deepest", width=360)
    inner, outer = page.evaluate("(e => [e.scrollWidth, e.clientWidth])(document.querySelector('.scroll-plot'))")
    assert inner > outer


@pytest.mark.parametrize("name", ["sound", "deep"])
def test_print_is_light_and_holds_every_section_and_table(tab: Page, site: str, name: str) -> None:
    page = opened(tab, f"{site}/{name}", width=794, scheme="dark", media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    headings = page.locator("section > h2")
    assert headings.count() >= 8
    assert all(heading.is_visible() for heading in headings.all())
    assert all(table.is_visible() for table in page.locator("table").all())
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
