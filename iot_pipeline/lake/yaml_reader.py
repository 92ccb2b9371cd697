"""Safe reading of YAML from users: plain data, limits on size, depth and aliases, no key twice, one-sentence errors."""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from iot_pipeline.errors import UserError

# Raised by PyYAML for scalars that do not fit their apparent type: 2026-13-45, !!bool x, !!int "".
SCALAR_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
MOST_BYTES = 1_000_000  # the project's largest file has 12 kB
MOST_DEPTH = 30
MOST_NODES = 100_000  # keys and values, aliases counted expanded


class _Loader(yaml.SafeLoader):
    """SafeLoader that counts nodes and depth while reading."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.nodes = self.depth = 0
        self.sizes: dict[str, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node; YAMLError if it is too deep, too large, or contains itself."""
        event, before = self.peek_event(), self.nodes
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self.sizes:
                raise yaml.YAMLError(f"*{event.anchor} contains itself")
            self.nodes += self.sizes.get(str(event.anchor), 0)
        self.nodes, self.depth = self.nodes + 1, self.depth + 1
        if self.depth > MOST_DEPTH:
            raise yaml.YAMLError(f"line {event.start_mark.line + 1} is nested more than {MOST_DEPTH} deep")
        if self.nodes > MOST_NODES:
            raise yaml.YAMLError(f"it has more than {MOST_NODES:,} values, each alias counted as what it stands for")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if not isinstance(event, yaml.AliasEvent) and event.anchor is not None:
            self.sizes[event.anchor] = self.nodes - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping; YAMLError if it names a key twice, of which SafeLoader would take the last value."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set[tuple[str, str]]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1} names {key.value[:60]!r} a second time")
                seen.add((key.tag, key.value))
        return node


# libyaml, which PyYAML's wheels bring, parses ten times faster than Python does, and takes a tab where that does not.
_OwnLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_own_yaml(path: Path) -> Any:
    """Read a file that comes with the project."""
    return deepcopy(_own(path.read_text(encoding="utf-8")))


@lru_cache(maxsize=32)
def _own(text: str) -> Any:
    return yaml.load(text, _OwnLoader)


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML text into dictionaries, lists and scalars; UserError, starting with `name`, says what is wrong."""
    if len(text) > MOST_BYTES:
        raise UserError(f"{name} has {len(text):,} characters; a YAML file has at most {MOST_BYTES:,}.")
    return deepcopy(_parsed(text, name))


@lru_cache(maxsize=16)
def _parsed(text: str, name: str) -> Any:
    """Parse a text once: each step reads the data set's spec twice, which takes 0.3 s."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, *SCALAR_ERRORS) as error:
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{name} is not valid YAML: {told}.") from error


def read_yaml(path: Path) -> Any:
    """Read a UTF-8 YAML file by the rules of `parse_yaml`."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{path.name} is larger than {MOST_BYTES:,} bytes: a YAML file has at most so many.")
        return parse_yaml(content.decode("utf-8"), path.name)
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8: byte {error.start} begins no character.") from error
