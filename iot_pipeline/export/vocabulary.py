"""Vocabulary of a GGUF: the rules by which llama.cpp will cut a text, chosen by trying them on the student's own texts.

llama.cpp reads no `tokenizer.json`. It knows a fixed list of rules by name; a file that names the wrong one gives other
tokens for the same text, and no error. The rules of a family (Qwen2, Llama 3, SmolLM, GPT-2) are recognised by equal
tokens. The tiny base cuts text as none of them does: it is written as a SentencePiece vocabulary, which merges by
score of the token that results and needs no cutting. Its merges never cross the borders that it was trained on, so the
tokens are the same (3,000 flows and 2,000 answers of two data sets: none differs). Every export measures this anew.
"""

import heapq
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

from iot_pipeline.errors import UserError
from iot_pipeline.models.tokenizer import encode, plain

NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6  # token types of a GGUF
BY_SCORE = "SentencePiece, by score"
SAMPLE = 200  # texts on which the rules are tried
BLANK = "\u2581"  # stands for a blank in a SentencePiece vocabulary
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
ORIGINAL = (  # as tokenizer.json has it; llama.cpp knows no (?i:)
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Texts on which the rules of two families differ: digits, contractions, blanks, signs, other scripts.
PROBES = (
    "12 345 6789 0.125e-07 we'll WE'LL it's  two   blanks\t\ttabs\n\n\nlines \n x",
    "a.b.c_d (above, p97); `x` = -2.265 ... ===--- \u00e9t\u00e9 \u4f60\u597d 1\u4f60 \U0001f600!? <tag> a1 \r\n end ",
)


class Rules(NamedTuple):
    """Rules of llama.cpp by name: cuts applied one after another; `whole`: a word that is a token stays."""

    pre: str
    cuts: tuple[str, ...]
    whole: bool = False


FAMILIES = (
    Rules("qwen2", (WORDS.replace("DIGITS", ""),)),
    Rules("llama-bpe", (WORDS.replace("DIGITS", "{1,3}"),), True),
    Rules("smollm", (r"\p{N}", GPT2)),
    Rules("gpt-2", (GPT2,)),
)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens as a GGUF lists them, and the engine's way from text to ids.

    `model`: gpt2 (merges by rank) or llama (merges by score); `pre`: name of the rules; `merges` are of gpt2, `scores`
    of llama. `differing`: how many of the texts tried the engine reads as other tokens.
    """

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    scores: list[float]
    read: Callable[[str], tuple[int, ...]]
    tried: int
    differing: int


def vocabulary_of(tokenizer: Any, rows: int, texts: Sequence[str]) -> Vocabulary:
    """Choose the rules under which llama.cpp reads the most texts as the tokenizer does; the first of equals.

    Args:
        tokenizer: The student's tokenizer.
        rows: Rows of its embeddings; those beyond the tokenizer become unused tokens.
        texts: Prompts and answers as `encode` reads them.

    Raises:
        UserError: The tokenizer is no byte-level BPE, or has more tokens than the embeddings have rows.
    """
    merges, ids = _merges(tokenizer)
    if len(tokenizer) > rows:
        raise UserError(f"--format gguf: the tokenizer has {len(tokenizer):,} tokens, the embeddings {rows:,} rows")
    names = {added.content: place for place, added in tokenizer.added_tokens_decoder.items()}
    tokens, kinds = _listed(tokenizer, rows)
    raw, raw_kinds = _raw(tokens, kinds)
    scores = _scores(tokens, merges)
    ways: dict[str, Callable[[str], list[int]]] = {rules.pre: _by_rank(ids, merges, rules) for rules in FAMILIES}
    ways[BY_SCORE] = partial(by_score, {text: place for place, text in enumerate(raw)}, scores)
    splitter = re.compile("(" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + ")")
    own = own_rules(tokenizer)  # of rules that read alike, those that the base's family uses
    order = sorted(ways, key=lambda name: name != own)
    readers = {name: cache(partial(_read, splitter, names, ways[name])) for name in order}
    chosen = _best(tokenizer, readers, texts[:SAMPLE])
    read, merged = readers[chosen], chosen != BY_SCORE
    ours = encode(tokenizer, texts)
    return Vocabulary(
        model="gpt2" if merged else "llama",
        pre=chosen,
        tokens=tokens if merged else raw,
        kinds=kinds if merged else raw_kinds,
        merges=[" ".join(pair) for pair in merges] if merged else [],
        scores=[] if merged else scores,
        read=read,
        tried=len(texts),
        differing=sum(list(read(text)) != found for text, found in zip(texts, ours, strict=True)),
    )


def own_rules(tokenizer: Any) -> str:
    """Name the rules that a tokenizer's own pre-tokeniser is, "" if it is none of those known here."""
    told = json.loads(tokenizer.backend_tokenizer.to_str()).get("pre_tokenizer") or {}
    steps = told.get("pretokenizers", [told])
    patterns = [step["pattern"].get("Regex", "") for step in steps if step.get("type") == "Split"]
    digits = [step for step in steps if step.get("type") == "Digits" and step.get("individual_digits")]
    worded = [step for step in steps if step.get("type") == "ByteLevel" and step.get("use_regex")]
    if len(patterns) == 1 and not digits and not worded:
        known = {ORIGINAL.replace("DIGITS", ""): "qwen2", ORIGINAL.replace("DIGITS", "{1,3}"): "llama-bpe"}
        return known.get(patterns[0], "")
    if patterns or not worded:
        return ""
    return "smollm" if digits else "gpt-2"


def _best(tokenizer: Any, readers: Mapping[str, Callable[[str], tuple[int, ...]]], texts: Sequence[str]) -> str:
    """Name the rules that read the most texts as the tokenizer does, then the most probes; the first of equals."""
    ours, probed = encode(tokenizer, texts), encode(tokenizer, PROBES)
    best, least = "", (len(texts) + 1, 0)
    for name, read in readers.items():
        wrong = sum(list(read(text)) != found for text, found in zip(texts, ours, strict=True))
        strange = sum(list(read(text)) != found for text, found in zip(PROBES, probed, strict=True))
        if (wrong, strange) < least:
            best, least = name, (wrong, strange)
        if least == (0, 0):
            break
    return best


def _merges(tokenizer: Any) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Return the merges and the ids of a byte-level BPE; UserError if the tokenizer is none."""
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    model, decoder = told["model"], told.get("decoder") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback") or decoder.get("type") != "ByteLevel":
        raise UserError(
            "--format gguf: the base's tokenizer is no byte-level BPE; use --format merged, and convert that folder "
            "with llama.cpp's own convert_hf_to_gguf.py"
        )
    pairs = (merge if isinstance(merge, list) else merge.split(" ", 1) for merge in model["merges"])
    return [(left, right) for left, right in pairs], model["vocab"]


def _listed(tokenizer: Any, rows: int) -> tuple[list[str], list[int]]:
    """List text and type of the tokens 0..rows-1."""
    tokens = [f"[PAD{place}]" for place in range(rows)]
    kinds = [UNUSED] * rows
    for token, place in tokenizer.get_vocab().items():
        tokens[place], kinds[place] = token, NORMAL
    for place, added in tokenizer.added_tokens_decoder.items():
        tokens[place], kinds[place] = added.content, CONTROL if added.special else USER_DEFINED
    return tokens, kinds


def _raw(tokens: list[str], kinds: list[int]) -> tuple[list[str], list[int]]:
    """Return tokens as text in place of byte-level signs, and their types; a part of a character becomes its byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {sign: byte for byte, sign in bytes_to_unicode().items()}
    found, types = list(tokens), list(kinds)
    taken = {token for token, kind in zip(tokens, kinds, strict=True) if kind != NORMAL}
    for place, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind != NORMAL:
            continue
        content = bytes(byte_of[sign] for sign in token)
        text = _text_of(content)
        if text is None or text in taken:  # engines refuse a vocabulary that has a text twice
            text, types[place] = f"[BYTES{place}]", UNUSED
        elif text.startswith("<0x"):
            types[place] = BYTE
        taken.add(text)
        found[place] = text
    return found, types


def _text_of(content: bytes) -> str | None:
    """Return a token's text, `<0xE4>` for a byte that is none by itself; None for several of these. NUL ends a text."""
    try:
        if b"\0" not in content:
            return content.decode().replace(" ", BLANK)
    except UnicodeDecodeError:
        pass
    return f"<0x{content[0]:02X}>" if len(content) == 1 else None


def _scores(tokens: list[str], merges: list[tuple[str, str]]) -> list[float]:
    """Return a score for each token: the earlier its merge was learned, the higher."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges, 1):
        ranks.setdefault(left + right, rank)
    return [-float(ranks.get(token, 0)) for token in tokens]


def _by_rank(ids: dict[str, int], merges: list[tuple[str, str]], rules: Rules) -> Callable[[str], list[int]]:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    core = Tokenizer(models.BPE(ids, merges, ignore_merges=rules.whole))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(cut), "isolated") for cut in rules.cuts),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return lambda text: list(core.encode(text, add_special_tokens=False).ids)


def by_score(ids: dict[str, int], scores: list[float], text: str) -> list[int]:
    """Tokenise as llama.cpp does a SentencePiece vocabulary: of all neighbours that form a token, the best score first.

    Args:
        ids: Token ids by text, blanks as BLANK.
        scores: Score of each token.
        text: Text without control tokens.

    Raises:
        UserError: The vocabulary has no token for a byte of the text.
    """
    parts = list(text.replace(" ", BLANK))
    before, after = list(range(-1, len(parts) - 1)), [*range(1, len(parts)), -1]
    queue: list[tuple[float, int, int, int]] = []

    def offer(left: int, right: int) -> None:
        if left >= 0 and right >= 0 and (found := ids.get(parts[left] + parts[right])) is not None:
            heapq.heappush(queue, (-scores[found], left, right, len(parts[left]) + len(parts[right])))

    for place in range(1, len(parts)):
        offer(place - 1, place)
    while queue:
        _, left, right, size = heapq.heappop(queue)
        if not parts[left] or not parts[right] or len(parts[left]) + len(parts[right]) != size:
            continue  # one of them was merged with another since
        parts[left], parts[right] = parts[left] + parts[right], ""
        after[left] = after[right]
        if after[right] >= 0:
            before[after[right]] = left
        offer(before[left], left)
        offer(left, after[left])
    return [token for part in parts if part for token in _ids_of(ids, part)]


def _ids_of(ids: dict[str, int], part: str) -> list[int]:
    """Return the id of a part, or those of its bytes."""
    if part in ids:
        return [ids[part]]
    found = [ids.get(f"<0x{byte:02X}>", ids.get(chr(byte))) for byte in part.encode(errors="surrogatepass")]
    if None in found:
        raise UserError(f"--format gguf: the vocabulary has no token for {part!r}; use --format merged")
    return [place for place in found if place is not None]


def _read(
    splitter: re.Pattern[str], names: dict[str, int], cut: Callable[[str], list[int]], text: str
) -> tuple[int, ...]:
    """Tokenise a text with control tokens in it, as an engine that is told to parse them."""
    parts = splitter.split(plain(text)) if names else [plain(text)]
    return tuple(token for part in parts if part for token in ([names[part]] if part in names else cut(part)))
