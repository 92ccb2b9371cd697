"""Blocks of a report as plain data for both templates: text is still unescaped, tables and figures are rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from iot_pipeline.reporting import tables
from iot_pipeline.reporting.style import embed, img
from iot_pipeline.reporting.tables import Column

MISSING = "not materialised in this lake"


@dataclass
class Section:
    """Chapter of a report; `id` is its anchor."""

    id: str
    title: str
    blocks: list[dict[str, Any]] = field(default_factory=list)

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self.blocks.append({"kind": "text", "text": text})

    def heading(self, text: str) -> None:
        """Add a heading inside the section."""
        self.blocks.append({"kind": "heading", "text": text})

    def items(self, items: Sequence[str]) -> None:
        """Add a list of sentences, unless it is empty."""
        if items:
            self.blocks.append({"kind": "list", "items": list(items)})

    def cards(self, cards: Sequence[Mapping[str, str]]) -> None:
        """Add headline figures {value, label, note}, unless there are none."""
        if cards:
            self.blocks.append({"kind": "cards", "cards": list(cards)})

    def table(
        self,
        rows: Sequence[Mapping[str, Any]],
        columns: Sequence[Column] | None = None,
        caption: str = "",
        asset: str = "",
    ) -> None:
        """Add a table with the asset it comes from, unless it has no rows."""
        if rows:
            self.blocks.append(
                {
                    "kind": "table",
                    "html": tables.to_html(rows, columns, caption),
                    "markdown": tables.to_markdown(rows, columns),
                    "caption": caption,
                    "asset": asset,
                }
            )

    def figure(self, image: bytes, alt: str, caption: str, asset: str) -> None:
        """Add a figure (PNG bytes) with alt text, caption and the asset it comes from."""
        self.blocks.append(
            {
                "kind": "figure",
                "html": img(image, alt),
                "markdown": embed(image, alt),
                "caption": caption,
                "asset": asset,
            }
        )

    def quote(self, title: str, parts: Sequence[tuple[str, str]]) -> None:
        """Add text from data or a model, folded in HTML: (name, text) pairs under one title."""
        self.blocks.append({"kind": "quote", "title": title, "parts": [{"name": n, "text": t} for n, t in parts]})

    def missing(self, asset: str) -> None:
        """Add a note that an asset has not been materialised."""
        self.blocks.append({"kind": "missing", "text": f"{asset}: {MISSING}."})
