"""Tokeniser of a base: loading it with the right class, encoding chats with it, and finding the label in an answer.

Prompt, end of turn and padding are read off the base's own chat template and tokens (`chat_form`, `pad_id`).

Flow texts, class names and answers are data: a control token's name in them (`<|im_end|>`) is encoded as plain text.
Only the chat template writes control tokens. `literal` therefore marks where such a name in data has to be cut:

    <|im_end|>  ->  <·|im_end|>      (the mark `·` is CUT)

and `encode` encodes the pieces separately, so that none holds a complete name. Other text is encoded as usual.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError

from iot_pipeline.errors import UserError
from iot_pipeline.models.folder import base_folder, read_settings

# ChatML's, of the tiny base; those of any base are in its `chat_form`.
END_OF_TURN = "<|im_end|>"
START_OF_TURN = "<|im_start|>"
# Some templates (Llama 3, SmolLM3) write today's date into every prompt: a flow's prompt would change every day. This
# takes the place of the clock in the template itself, because transformers passes no function on to one.
CLOCK = "strftime_now"
STOPPED = (
    "{% macro strftime_now(form) %}{{ form | replace('%d', '26') | replace('%b', 'Jul') | replace('%B', 'July')"
    " | replace('%m', '07') | replace('%Y', '2024') }}{% endmacro %}"
)
# What expressions in a template raise beside jinja's own: `1/0`, `'a' + 1`, a macro without end, a text of 100 GB.
TEMPLATE_ERRORS = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
EMPTY_THOUGHT = re.compile(r"\s*<(\w+)>\s*</\1>\s*")
LABEL_LINE = "CLASSIFICATION:"
# A flow and its answer as students read and write them: what a template or tokenizer does to text shows on these.
QUESTION = "flow_duration: 0.125 (above, p97)\norig_pkts: 12"
ANSWER = f"{LABEL_LINE} Port_Scanning\nANALYSIS: `orig_pkts` = 12 & no more < 2.265E-07."
MOST_WORDS = 300  # characters of a library's error that are repeated
LINE = re.compile(rf"^{LABEL_LINE}", re.MULTILINE)
CLASS_LINE = re.compile(rf"^({LABEL_LINE}.*)(\n\S*)", re.MULTILINE)  # and the beginning of the next line
# Code points that Unicode reserves for a program's internal use; an OWN that occurs in data is written as ESCAPED.
CUT, OWN, ESCAPED = "\ufdd0\ufdd2", "\ufdd0", "\ufdd0\ufdd1"


def load_tokenizer(folder_or_id: str | Path) -> Any:
    """Load the tokeniser of a folder or hub id; UserError if it has no chat template, or none of a form used here.

    AutoTokenizer would load our own `tokenizer.json` beside a Qwen2 `config.json` as Qwen2Tokenizer, with Qwen2's
    pre-tokeniser: other ids for the same text, and no error. A folder whose `tokenizer_config.json` names the plain
    fast class is therefore loaded with that class.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = base_folder(folder_or_id, weights=False)
    plain = ("PreTrainedTokenizerFast", "TokenizersBackend")
    named = read_settings(folder / "tokenizer_config.json").get("tokenizer_class")
    kind = PreTrainedTokenizerFast if named in plain else AutoTokenizer
    try:
        tokenizer: Any = kind.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception for a file that it cannot parse
        raise UserError(f"IOT_BASE_MODEL: no tokenizer in {str(folder_or_id)!r}: {in_one_line(error)}") from error
    if not tokenizer.chat_template:
        raise UserError(f"IOT_BASE_MODEL: the tokenizer of {str(folder_or_id)!r} has no chat template")
    tokenizer.clean_up_tokenization_spaces = False  # Llama 3 asks for it: " ." would be decoded as "."
    try:
        chat_form(tokenizer)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"IOT_BASE_MODEL: the tokenizer of {str(folder_or_id)!r} cannot encode a chat: {in_one_line(error)}"
        ) from error
    return tokenizer


class ChatForm(NamedTuple):
    """Form of a base's chats, read off its template; ids of tokens, and texts between prompt and answer.

        prompt   ... <start>assistant\\n <think></think>
        chat     ... <start>assistant\\n ANSWER <end>       here `dropped` is `<think></think>`, `end` is <end>

    end: end of turn. mark: last control token of a prompt. added: text that a chat has between prompt and answer.
    dropped: text at the prompt's end that a chat lacks.
    """

    end: int
    mark: int
    added: str
    dropped: str


def chat_form(tokenizer: Any) -> ChatForm:
    """Derive the form of chats from the template; UserError if prompt, answer and end of turn cannot be told apart."""
    return _form(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _form(tokenizer: Any, _template: str) -> ChatForm:
    user, answer = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
    prompt = _render(tokenizer, [user], add_generation_prompt=True)
    whole = _render(tokenizer, [user, answer])
    if QUESTION not in prompt or ANSWER not in whole:
        changed = "an answer" if QUESTION in prompt else "a question"
        raise UserError(
            f"IOT_BASE_MODEL: its chat template changes or leaves out the text of {changed}; use a base with another "
            "template"
        )
    before, found, after = whole.rpartition(ANSWER)
    added, dropped = before.removeprefix(prompt), prompt.removeprefix(before)
    known = before.startswith(prompt) or (prompt.startswith(before) and EMPTY_THOUGHT.fullmatch(dropped))
    if not found or not known:
        raise UserError(
            "IOT_BASE_MODEL: its chat template's prompt is not the beginning of its whole conversation, so the answer "
            f"cannot be told from the prompt (which ends with {prompt[-40:]!r}); use a base with another template"
        )
    added = added if before.startswith(prompt) else ""
    controls = set(control_tokens(tokenizer).values())
    head, tail = ([token for token in ids if token in controls] for ids in encode(tokenizer, [prompt + added, after]))
    if not head or not tail:
        missing = "ends an answer without" if head else "begins an answer without"
        raise UserError(
            f"IOT_BASE_MODEL: its chat template {missing} a control token; use a base with another template"
        )
    end = tokenizer.eos_token_id if tokenizer.eos_token_id in tail else tail[0]
    return ChatForm(int(end), head[-1], added, dropped if not before.startswith(prompt) else "")


def _render(tokenizer: Any, turns: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
    """Render turns by the chat template without thinking and without a clock; UserError if the template refuses."""
    options = {"tokenize": False, "enable_thinking": False, "thinking": False}
    try:
        template = tokenizer.get_chat_template()
        if CLOCK in template:
            options["chat_template"] = STOPPED + template
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=add_generation_prompt, **options))
    except (TemplateError, *TEMPLATE_ERRORS) as error:
        raise UserError(
            f"IOT_BASE_MODEL: its chat template refuses a user's turn and its answer: {in_one_line(error)}"
        ) from error


def check_text_survives(tokenizer: Any) -> None:
    """Refuse a tokenizer that loses or changes text: lower case, no digits, lines run together; spaces may change."""
    for text in (QUESTION, ANSWER):
        (ids,) = encode(tokenizer, [literal(tokenizer, text)])
        if _letters(tokenizer.decode(ids)) != _letters(text):
            raise UserError(
                f"IOT_BASE_MODEL: its tokenizer makes {tokenizer.decode(ids)[:60]!r} of {text[:60]!r}; "
                "take a base whose tokenizer keeps text as it is"
            )


def _letters(text: str) -> list[str]:
    return ["".join(line.split()) for line in text.strip().splitlines()]


def end_of_turn(tokenizer: Any) -> int:
    """Return the id of the control token that ends an answer."""
    return chat_form(tokenizer).end


def pad_id(tokenizer: Any) -> int:
    """Return the padding token's id; never that of the end of turn.

    Here labels are made before padding, and padding is masked, but other trainers mask every padding token: an adapter
    trained further by them would unlearn to stop. Llama 3 names no padding token, SmolLM2 its end of turn.
    """
    end, names = end_of_turn(tokenizer), control_tokens(tokenizer)
    spare = [
        names[name] for kind in ("endoftext", "pad", "reserved", "unused") for name in names if kind in name.lower()
    ]
    for token in (tokenizer.pad_token_id, *spare, tokenizer.unk_token_id, tokenizer.eos_token_id):
        if token is not None and token != end:
            return int(token)
    raise UserError("IOT_BASE_MODEL: the tokenizer has no padding token distinct from its end of turn")


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Map each control token's text to its id: added tokens that are marked special or in angle brackets.

    Qwen2.5 does not mark `<tool_call>` and `<|fim_prefix|>` special, though no flow means them either. Other words
    added to a vocabulary are ordinary tokens.
    """
    return {
        token.content: place
        for place, token in tokenizer.added_tokens_decoder.items()
        if token.special or re.fullmatch(r"<.+>", token.content)
    }


def literal(tokenizer: Any, text: str) -> str:
    """Mark data so that `encode` reads the names of control tokens in it as plain text."""
    names = _control_names(tokenizer, len(tokenizer))
    text = text.replace(OWN, ESCAPED)
    return names.sub(rf"\1{CUT}", text) if names else text


@lru_cache(maxsize=8)
def _control_names(tokenizer: Any, _tokens: int) -> re.Pattern[str] | None:
    """Return the pattern of a control token's first character; Gemma has 6,400 of them, so they are tried last."""
    names = sorted(control_tokens(tokenizer))
    firsts = "".join({re.escape(name[0]): None for name in names})
    return re.compile(rf"(?=[{firsts}])(?=(?:{'|'.join(map(re.escape, names))}))(.)", re.DOTALL) if names else None


def plain(text: str) -> str:
    """Return a text for `encode` as other programs get it: without the marks that keep control tokens' names apart."""
    return text.replace(CUT, "").replace(ESCAPED, OWN)


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts without adding tokens around them; data in them must have passed through `literal`."""
    parts = [[part.replace(ESCAPED, OWN) for part in text.split(CUT) if part] for text in texts]
    flat = [part for some in parts for part in some]
    found = iter(tokenizer(flat, add_special_tokens=False)["input_ids"] if flat else [])
    return [[int(token) for _ in some for token in next(found)] for some in parts]


def class_tokens(tokenizer: Any, classes: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Encode the class line of each class: (the tokens that all begin with, the rest of each).

    A name is encoded behind its line, as in answers: alone, some tokenisers put a space of their own before it.
    """
    lines = encode(
        tokenizer, [literal(tokenizer, text) for text in (LABEL_LINE, *(f"{LABEL_LINE} {c}" for c in classes))]
    )
    together = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*lines, strict=False))
    begun = [tokens[0] for tokens in together]
    return begun, [line[len(begun) :] for line in lines[1:]]


def line_apart(tokenizer: Any, text: str) -> str:
    """Mark for `encode` where a text's class line ends, if the tokenizer would join its end with what follows.

    Classes are scored without what follows them, but Qwen2.5 has a token of `)` and newline, behind `DoS (slow)`.
    """
    line = CLASS_LINE.search(text)
    if line is None or not _joins(tokenizer, *line.groups()):
        return text
    return text[: line.end(1)] + CUT + text[line.end(1) :]


@lru_cache(maxsize=256)
def _joins(tokenizer: Any, line: str, following: str) -> bool:
    alone, whole, cut = encode(tokenizer, [line, line + following, line + CUT + following])
    # SentencePiece would put a space at the cut.
    return whole[: len(alone)] != alone and bool(tokenizer.decode(cut) == tokenizer.decode(whole))


def prompt_text(tokenizer: Any, user: str) -> str:
    """Render the prompt of one user turn by the chat template, up to where the assistant begins; for `encode`."""
    turns = [{"role": "user", "content": literal(tokenizer, user)}]
    return _render(tokenizer, turns, add_generation_prompt=True) + chat_form(tokenizer).added


def served_template(tokenizer: Any) -> str:
    """Return the chat template for other engines: rendered plainly, it gives the prompts that students are trained on.

    The clock is stopped, thinking is off, and what a chat has between prompt and answer stands in the prompt.
    """
    template, added = str(tokenizer.get_chat_template()), chat_form(tokenizer).added
    off = [name for name in ("enable_thinking", "thinking") if re.search(rf"\b{name}\b", template)]
    ahead = (STOPPED if CLOCK in template else "") + "".join(f"{{% set {name} = false %}}" for name in off)
    behind = f"{{% if add_generation_prompt %}}{{{{ {json.dumps(added)} }}}}{{% endif %}}" if added else ""
    return ahead + template + behind


def chat_texts(tokenizer: Any, user: str, answer: str) -> tuple[str, str]:
    """Render prompt and answer of a chat by its template, each for `encode`; together they are the whole conversation.

    An empty thought that the template writes into prompts alone stays in the prompt: answers are asked for with it.
    UserError if the template renders the prompt differently when an answer follows.
    """
    head = prompt_text(tokenizer, user)
    begun = head.removesuffix(chat_form(tokenizer).dropped)
    turns = [
        {"role": "user", "content": literal(tokenizer, user)},
        {"role": "assistant", "content": literal(tokenizer, answer)},
    ]
    whole = _render(tokenizer, turns)
    if not whole.startswith(begun):
        raise UserError(
            "the chat template's prompt is not the beginning of its whole conversation, so the answer cannot "
            f"be told from the prompt (flow beginning {user[:60]!r}); use a base with another template"
        )
    return head, whole[len(begun) :]


def template_controls(tokenizer: Any) -> int:
    """Count the control tokens that the chat template writes into a row, up to its end of turn.

    UserError if the template does not end an answer with exactly one end of turn.
    """
    controls = list(control_tokens(tokenizer).values())
    before, after = encode(tokenizer, chat_texts(tokenizer, "x", "x"))
    end = end_of_turn(tokenizer)
    if after.count(end) != 1:
        raise UserError(
            f"IOT_BASE_MODEL: its chat template ends an answer with {after.count(end)} "
            f"{tokenizer.convert_ids_to_tokens(end)} in place of one; use a base with another template"
        )
    return sum(token in controls for token in [*before, *after[: after.index(end) + 1]])


def in_one_line(error: BaseException) -> str:
    """Return an error's message as one line of at most 300 characters; its type too, unless the words say enough."""
    words = " ".join(str(error).split())[:MOST_WORDS]
    if not words or isinstance(error, (LookupError, ArithmeticError, MemoryError, AttributeError)):
        return f"{type(error).__name__}: {words}" if words else type(error).__name__
    return words


class LabelFinder:
    """Label finder that knows the text of every token.

    Searching for fixed token ids would fail: a newline may be merged with the text after it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.pieces: list[str] = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        self.controls = frozenset(control_tokens(tokenizer).values())

    def span(self, ids: Sequence[int]) -> tuple[int, int] | None:
        """Return the token span [start, stop) of the class after `CLASSIFICATION:`, None if there is no class."""
        pieces = [self.pieces[token] for token in ids]
        text = "".join(pieces)
        line = LINE.search(text)
        if line is None:
            return None
        starts = [0, *accumulate(map(len, pieces))]
        begin, newline = line.end(), text.find("\n", line.end())
        turns = [starts[place] for place, token in enumerate(ids) if token in self.controls and starts[place] >= begin]
        end = min([*turns, len(text) if newline < 0 else newline])
        if not text[begin:end].strip():
            return None
        return bisect_right(starts, begin) - 1, bisect_right(starts, end - 1)
