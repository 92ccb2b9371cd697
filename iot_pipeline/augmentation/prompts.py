"""Prompt files: front matter with the sampling parameters, and a Jinja2 template for the messages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cache
from operator import is_
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from iot_pipeline.errors import UserError
from iot_pipeline.lake.yaml_reader import parse_yaml

SYSTEM, USER = "[system]", "[user]"
VARIABLES = {
    "flow", "label", "classes", "words", "order", "glossary", "serialisation", "standardised", "answer", "objects",
    "marked", "indicators",
}  # fmt: skip


class FrontMatter(BaseModel):
    """Front matter of a prompt file, between the two `---` lines: model and sampling parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    model: str = Field(min_length=1)
    temperature: float = Field(ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(ge=16, le=100_000)


@dataclass(frozen=True)
class PromptFile:
    """Parsed prompt file; `source` is its text, `sha256` the hash of that text."""

    name: str
    source: str
    sha256: str
    settings: FrontMatter
    system: str
    _templates: tuple[jinja2.Template, jinja2.Template] = field(repr=False, compare=False)
    _rendered: list[Any] = field(repr=False, compare=False, default_factory=list)  # latest variables and text

    @property
    def model(self) -> str:
        """Model name."""
        return self.settings.model

    def params(self) -> dict[str, Any]:
        """Return the sampling parameters for a request."""
        return self.settings.model_dump(exclude={"model"})

    def render(self, **variables: Any) -> tuple[dict[str, str], ...]:
        """Render the messages; UserError names the file and the variable if one is missing or the template fails."""
        try:
            system, user = self._system(variables), self._templates[1].render(**variables).strip()
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise UserError(f"{self.name}: the template cannot be filled in: {error}.") from error
        messages = [{"role": "user", "content": user}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        return tuple(messages)

    def _system(self, variables: dict[str, Any]) -> str:
        """Render the system message, once for thousands of requests where it does not depend on the row."""
        used = [variables[name] for name in sorted(_used(self.system)) if name in variables]
        if self._rendered and len(used) == len(self._rendered[0]) and all(map(is_, used, self._rendered[0])):
            return self._rendered[1]
        text = self._templates[0].render(**variables).strip()
        self._rendered[:] = used, text
        return text


@cache
def _used(template: str) -> frozenset[str]:
    """Return the variables that a template uses."""
    return frozenset(jinja2.meta.find_undeclared_variables(SandboxedEnvironment().parse(template)))


def load_prompt(path: Path, model: str | None = None) -> PromptFile:
    """Read a prompt file; `model` overrides the one it names. UserError names the file and the mistake in it."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the prompt file {path} cannot be read: {error}.") from error
    found = parse_prompt(source, str(path))
    return replace(found, settings=found.settings.model_copy(update={"model": model})) if model else found


def parse_prompt(source: str, name: str) -> PromptFile:
    """Parse a prompt from its text; error messages call it `name`."""
    parts = source.replace("\r\n", "\n").split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        raise UserError(f"{name}: it must begin with front matter between two lines `---`.")
    try:
        content = parse_yaml(parts[1], f"{name}: the front matter")
        if not isinstance(content, dict):
            raise UserError(f"{name}: the front matter must be lines `field: value` (model, temperature, ...).")
        settings = FrontMatter.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{name}: front matter, {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    system, user = _split(parts[2], name)
    if not user.strip():
        raise UserError(f"{name}: there is no text after the front matter.")
    compiled = _compile(system, name), _compile(user, name)
    if not (_used(system) | _used(user)) & {"flow", "answer"}:
        raise UserError(
            f"{name}: the template uses neither {{{{ flow }}}} nor {{{{ answer }}}}: the teacher would see nothing."
        )
    return PromptFile(name, source, hashlib.sha256(source.encode()).hexdigest(), settings, system, compiled)


def _split(body: str, name: str) -> tuple[str, str]:
    """Split a template into the text after `[system]` and after `[user]`; without these lines all is the user's."""
    lines = body.split("\n")
    if USER not in lines:
        if SYSTEM in lines:
            raise UserError(f"{name}: there is a line {SYSTEM} but no line {USER}.")
        return "", body
    at = lines.index(USER)
    start = lines.index(SYSTEM) + 1 if SYSTEM in lines[:at] else 0
    return "\n".join(lines[start:at]), "\n".join(lines[at + 1 :])


def _compile(text: str, name: str) -> jinja2.Template:
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
    try:
        unknown = sorted(jinja2.meta.find_undeclared_variables(environment.parse(text)) - VARIABLES)
        if unknown:
            raise UserError(
                f"{name}: unknown variable {unknown[0]!r} in the template; there are: {', '.join(sorted(VARIABLES))}."
            )
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{name}: template line {error.lineno}: {error.message}.") from error
