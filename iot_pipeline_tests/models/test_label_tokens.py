"""The class is found wherever its line stands and however the tokenizer cut it."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken

from iot_pipeline.models.tokenizer import LabelFinder


class Pieces:
    """A tokenizer of the given pieces."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces
        self.added_tokens_decoder = {
            place: AddedToken(piece, special=True) for place, piece in enumerate(pieces) if piece.startswith("<|")
        }

    def __len__(self) -> int:
        return len(self.pieces)

    def batch_decode(self, rows: list[list[int]]) -> list[str]:
        return [self.pieces[row[0]] for row in rows]


@pytest.mark.parametrize(
    ("pieces", "label"),
    [
        (("CLASSIFICATION", ":", " TCP", "_Flood", "\nANALYSIS: x", "<|im_end|>"), (2, 4)),
        (("ANALYSIS: x", "\nCLASSIFICATION:", " TCP_Flood", "<|im_end|>"), (2, 3)),
        (("ANALYSIS: no CLASSIFICATION: here", "\nCLASSIFICATION", ": Normal", "<|im_end|>"), (2, 3)),
        (("CLASSIFICATION: Normal\n", "ANALYSIS"), (0, 1)),
        (("CLASSIFICATION:", " ", "\nANALYSIS"), None),
        (("CLASSIFICATION:",), None),
        (("ANALYSIS: x",), None),
        (("CLASSIFICATION:", " <", "|im_end|>", "_x", "\nANALYSIS", "<|im_end|>"), (1, 4)),  # a name in plain text
    ],
)
def test_span(pieces: tuple[str, ...], label: tuple[int, int] | None) -> None:
    assert LabelFinder(Pieces(*pieces)).span(list(range(len(pieces)))) == label
