"""The OpenAPI description as one plain page, which loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any


def reference_page(described: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI description."""
    parts = [
        f"<h1>{escape(described['info']['title'])} {escape(described['info']['version'])}</h1>",
        f"<p>{escape(described['info'].get('description', ''))}</p>",
        '<p><a href="/">Paste a flow</a> · <a href="/openapi.json">openapi.json</a></p>',
    ]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(method, path, operation))
    parts.append("<h2>Bodies</h2>")
    for name, schema in described["components"]["schemas"].items():
        parts.append(_schema(name, schema))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Reference</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/page.css"></head><body>'
        f'<main class="reference">{"".join(parts)}</main></body></html>'
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    body = _kind(content["schema"]) if content else ""
    statuses = ", ".join(f"{status}" for status in operation["responses"])
    return (
        f"<section><h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
        f"<p>{escape(operation.get('description', ''))}</p>"
        + (f"<p>Body: {body}</p>" if body else "")
        + f"<p>Answers: {escape(statuses)}</p></section>"
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", []))
    rows = "".join(
        f"<tr><td><code>{escape(key)}</code></td><td>{_kind(part)}</td>"
        f"<td>{'required' if key in required else ''}</td><td>{escape(part.get('description', ''))}</td></tr>"
        for key, part in schema.get("properties", {}).items()
    )
    told = f"<p>{escape(schema.get('description', ''))}</p>"
    table = f'<div class="wide"><table>{rows}</table></div>'
    return f'<section id="{escape(name)}"><h3>{escape(name)}</h3>{told}{table}</section>'


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the type of a schema in words, with links to the bodies of this page."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(repr(value))}</code>" for value in values)
    return escape(str(schema.get("type", "any")))
