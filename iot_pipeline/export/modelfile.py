"""Ollama's Modelfile: the chat template in Ollama's language, the end of an answer, and decoding as it was measured."""

from typing import Any

from iot_pipeline.errors import UserError, printable
from iot_pipeline.models.tokenizer import control_tokens, end_of_turn, plain, prompt_text

QUESTION = "\ue000question\ue000"  # stands for the flow's text; of a private area, which no template writes


def modelfile(tokenizer: Any, gguf: str, context: int, answer: int, says: list[str]) -> str:
    """Write the Modelfile of an exported student.

    The template is the student's own prompt around the last question, so that every request is read as in training: a
    system prompt that a client sends is not in it, because students are trained without one, or with the base's own.

    Args:
        tokenizer: The student's tokenizer.
        gguf: File name beside the Modelfile.
        context: Tokens of the longest row.
        answer: Tokens of the longest answer.
        says: Comment lines.

    Raises:
        UserError: A text of the template cannot stand in a Modelfile.
    """
    before, after = turn(tokenizer)
    (end,) = [name for name, place in control_tokens(tokenizer).items() if place == end_of_turn(tokenizer)][:1]
    lines = [f"# {' '.join(printable(line).split())}" for line in says]
    lines += [
        f"FROM ./{gguf}",
        f"TEMPLATE {_quoted(_escaped(before) + '{{ .Prompt }}' + _escaped(after) + '{{ .Response }}' + _escaped(end))}",
        f"PARAMETER stop {_quoted(end)}",
        "PARAMETER temperature 0",
        "PARAMETER top_k 1",
        "PARAMETER repeat_penalty 1",
        f"PARAMETER num_ctx {context}",
        f"PARAMETER num_predict {answer}",
    ]
    return "\n".join(lines) + "\n"


def turn(tokenizer: Any) -> tuple[str, str]:
    """Return what stands before and behind a flow's text in a prompt."""
    before, found, after = plain(prompt_text(tokenizer, QUESTION)).partition(QUESTION)
    if not found:
        raise UserError("--format ollama: the base's chat template changes the text of a question")
    return before, after


def _escaped(text: str) -> str:
    """Escape text that stands in a template of Go: braces would begin an action."""
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    """Quote a value; Ollama knows no escapes within."""
    if '"""' in text or text.endswith('"'):
        raise UserError(f"--format ollama: {text!r} cannot stand in a Modelfile; use --format gguf")
    return f'"""{text}"""'
