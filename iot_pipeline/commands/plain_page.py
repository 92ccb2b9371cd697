"""Plain HTML pages beside Dagster's UI: readable on any screen, light and dark, without scripts.

They hold words of flows, models and teachers. So each page is sandboxed: it runs no script and is of no origin, and can
thus send nothing to the UI, which is served under the same address.
"""

import html

from starlette.responses import HTMLResponse

SANDBOX = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
SAFE = {"Content-Security-Policy": SANDBOX, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
STYLE = """
:root { --ink: #1d2733; --paper: #fff; --line: #c9d1d9; --link: #005a8f; --warn: #9a3c00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ee; --paper: #14191f; --line: #44505c; --link: #74bdf0; --warn: #f2945a; }
}
body { margin: 0 auto; max-width: 64rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; } a { color: var(--link); } .warn { color: var(--warn); }
dt { font-weight: 600; } dd { margin: 0 0 0.6rem; }
pre { white-space: pre-wrap; border-left: 3px solid var(--line); padding-left: 0.8rem; font-size: 0.85rem; }
table { border-collapse: collapse; font-size: 0.9rem; }
td a { white-space: nowrap; }
td:not(:last-child), th { overflow-wrap: break-word; } /* only the last cell of a row is broken within words */
td, th { border-bottom: 1px solid var(--line); padding: 0.3rem 0.6rem 0.3rem 0; text-align: left; vertical-align: top; }
"""


def page(title: str, body: str, status: int = 200) -> HTMLResponse:
    """Return a page.

    Args:
        title: Its title, as plain text.
        body: HTML below the title, with every foreign text in it escaped.
        status: Of the response.
    """
    name = html.escape(title)
    return HTMLResponse(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{name}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n<h1>{name}</h1>\n{body}\n</main>\n</body>\n</html>\n",
        status,
        headers=SAFE,
    )


def link(address: str, text: str) -> str:
    """Return a link; `address` is quoted already."""
    return f'<a href="{html.escape(address)}">{html.escape(text)}</a>'


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a table; its cells are HTML already."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"
