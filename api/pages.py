"""HTML answers and the headers that keep them to themselves."""

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

HEADERS = {
    # Pages stand alone: nothing is loaded from elsewhere, sent elsewhere, or framed.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "img-src data:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

templates = Environment(
    loader=PackageLoader("peelbound.api"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def html_page(text: str) -> HTMLResponse:
    """A page that may apply its own inline style and do nothing else."""
    return HTMLResponse(text, headers=HEADERS)
