"""Prompt files: front matter (model and sampling) and a Jinja2 template that users edit.

Belongs here: reading, validating and rendering one prompt file. Does not belong here: what is done with the text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from iot_pipeline.errors import UserError

VARIABLES = ("flow", "label", "classes", "words", "order", "glossary", "answer", "standardised")
_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


class FrontMatter(BaseModel):
    """What stands between the two `---` lines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    temperature: float = Field(ge=0, le=2)
    top_p: float = Field(gt=0, le=1)
    max_tokens: int = Field(ge=1)


@dataclass(frozen=True)
class PromptFile:
    """One prompt as it was read: `source` is the whole file, `sha256` that of it; `template` the part to render."""

    name: str
    source: str
    sha256: str
    model: str
    temperature: float
    top_p: float
    max_tokens: int
    template: str
    _compiled: Template

    def render(self, **variables: Any) -> str:
        """The text to send. UserError naming the file and the variable that is missing or misused."""
        try:
            return self._compiled.render(**variables).strip()
        except UndefinedError as error:
            raise UserError(
                f"{self.name}: {error.message}; a prompt can use {', '.join(VARIABLES)}"
                " (answer: only where an answer is rewritten)."
            ) from None
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise UserError(f"{self.name}: the template cannot be rendered: {error}.") from None


def load_prompt(path: Path, model: str | None = None) -> PromptFile:
    """Read a prompt file; `model` replaces the one it names.

    Raises UserError naming the file and the field or variable for a missing file, bad front matter, a template
    that does not parse, an unknown variable, or one that shows the teacher neither the flow nor an answer.
    """
    name = path.name
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the prompt file cannot be read: {error}.") from None
    lines = source.replace("\r\n", "\n").split("\n")
    if lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        raise UserError(
            f"{name}: a prompt file begins with front matter between two lines of `---` "
            f"({', '.join(FrontMatter.model_fields)})."
        )
    end = next(number for number, line in enumerate(lines[1:], start=1) if line.strip() == "---")
    front = _front_matter(name, "\n".join(lines[1:end]))
    template = "\n".join(lines[end + 1 :])
    try:
        used = meta.find_undeclared_variables(_ENVIRONMENT.parse(template))
        compiled = _ENVIRONMENT.from_string(template)
    except TemplateSyntaxError as error:
        raise UserError(f"{name}, line {end + 1 + error.lineno}: {error.message}.") from None
    if unknown := sorted(used - set(VARIABLES)):
        raise UserError(f"{name}: unknown variable {unknown[0]!r}; a prompt can use {', '.join(VARIABLES)}.")
    if not used & {"flow", "answer"}:
        raise UserError(
            f"{name}: the template uses neither {{{{ flow }}}} nor {{{{ answer }}}}, so the teacher would be shown nothing."
        )
    return PromptFile(
        name=name,
        source=source,
        sha256=hashlib.sha256(source.encode()).hexdigest(),
        model=model or front.model,
        temperature=front.temperature,
        top_p=front.top_p,
        max_tokens=front.max_tokens,
        template=template,
        _compiled=compiled,
    )


def _front_matter(name: str, text: str) -> FrontMatter:
    try:
        return FrontMatter.model_validate(yaml.safe_load(text) or {})
    except yaml.YAMLError as error:
        raise UserError(f"{name}: the front matter is not valid YAML: {' '.join(str(error).split())}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "front matter"
        raise UserError(f"{name}: {field}: {first['msg']}.") from None
