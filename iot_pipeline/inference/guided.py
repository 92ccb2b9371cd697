"""Guided decoding: answers follow a grammar each (`grammar.py`), by llguidance."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.inference.grounding import NotGroundable


def guide_tokens(tokenizer: Any, width: int, end: int) -> Any:
    """Return llguidance's view of a tokeniser (LLTokenizer), for a model with `width` scores; `end`: end of turn.

    NotGroundable if llguidance is not installed, or cannot read the tokeniser.
    """
    try:
        from llguidance.hf import from_tokenizer

        return from_tokenizer(tokenizer, n_vocab=width, eos_token=end)
    except ImportError as error:
        raise NotGroundable("llguidance is not installed: pip install llguidance==1.9.1") from error
    except ValueError as error:
        raise NotGroundable(f"llguidance cannot read the base's tokenizer ({error})") from error


class GuidedAnswers:
    """Logits processor of transformers for greedy generation: bars tokens that leave a row's grammar.

    The likeliest token is tried first, some 5 us, and the mask of all tokens computed only where it is refused, some
    200 us. A row's token is thereby decided here, so the scores are not fit for sampling.
    """

    def __init__(self, tokens: Any, grammars: Sequence[str], heads: Sequence[Sequence[int]]) -> None:
        """Prepare one answer a row: `tokens` from `guide_tokens`, a Lark grammar and the tokens of its beginning each.

        UserError if a grammar is invalid, or does not allow of its answer's beginning.
        """
        from llguidance import LLMatcher

        self._vocabulary, self._end = tokens.vocab_size, tokens.eos_token
        distinct = list(dict.fromkeys(grammars))
        with ThreadPoolExecutor() as pool:  # some 5 ms each, without the interpreter's lock
            built = dict(zip(distinct, pool.map(partial(LLMatcher, tokens), distinct), strict=True))
        self._rows = [built[grammar].deep_copy() for grammar in grammars]
        self._ended = [False] * len(self._rows)
        for row, head in zip(self._rows, heads, strict=True):
            if row.is_error() or row.try_consume_tokens(list(head)) != len(head):
                raise UserError(f"the grammar does not fit the beginning of its answer. {row.get_error()}".strip())

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Set scores [rows, vocabulary] of a row to -inf but for its likeliest allowed token, if its own is barred."""
        for place, (row, best) in enumerate(zip(self._rows, scores.argmax(-1).tolist(), strict=True)):
            if self._ended[place]:  # generate() pads it
                continue
            if not row.try_consume_tokens([best]):
                best = int(scores[place].masked_fill(~self._allowed(row, scores.device), float("-inf")).argmax())
                row.consume_token(best)
                scores[place] = float("-inf")
                scores[place, best] = 0.0  # equal scores cannot make generate() choose another one
            if row.is_error():
                raise UserError(f"guided decoding: {row.get_error()}")
            self._ended[place] = best == self._end
        return scores

    def _allowed(self, row: Any, device: Any) -> Any:
        """Return the tokens that may come next in a row, bool [vocabulary]."""
        import numpy as np
        import torch

        bits = np.frombuffer(row.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little", count=self._vocabulary).astype(bool)
        return torch.from_numpy(allowed).to(device)
