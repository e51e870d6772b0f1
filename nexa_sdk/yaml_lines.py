"""YAML 1.2 whose values know their lines, read into pydantic models; complaints name the line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from nexa_sdk.errors import DefinitionError
from nexa_sdk.job import problems
from nexa_sdk.values import Scalar, parse_scalar

if TYPE_CHECKING:
    from ruamel.yaml.events import Event

__all__ = ["Document"]

Place = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)
_DEEPEST = 20
_LARGEST = 10**6  # values that aliases may unfold to: a few lines could mean billions


@dataclass(frozen=True)
class _Node:
    """A value, the line that it begins on, and how many values it unfolds to."""

    content: Scalar | list[_Node] | dict[str, tuple[int, _Node]]  # a key's line stands before its value
    line: int
    written: str | None = None
    size: int = 1

    def value(self, *, as_text: bool) -> Any:
        if isinstance(self.content, dict):
            return {key: node.value(as_text=as_text) for key, (_, node) in self.content.items()}
        if isinstance(self.content, list):
            return [node.value(as_text=as_text) for node in self.content]
        return self.written if as_text and self.content is not None else self.content


class Document:
    """A YAML mapping and its lines."""

    def __init__(self, text: str) -> None:
        self._root = _compose(text)
        if self._root is None:
            raise DefinitionError("the definition is empty; write at least a sweep: section")
        if not isinstance(self._root.content, dict):
            raise DefinitionError(
                f"a definition is a mapping with sweep: in it, not {_kind(self._root)}; a file is named by a path that exists",
                line=self._root.line,
            )

    def _walk(self, place: Place) -> tuple[int, _Node | None]:
        """Return the line of a place, or of the nearest one around it, and its node."""
        assert self._root is not None
        node, line = self._root, self._root.line
        for part in place:
            content = node.content
            if isinstance(content, dict) and str(part) in content:
                line, node = content[str(part)]
            elif isinstance(content, list) and isinstance(part, int):
                node = content[part]
                line = node.line
            else:
                return line, None
        return line, node

    def line(self, place: Place) -> int:
        """Return the line of a place, or of the nearest one around it."""
        return self._walk(place)[0]

    def keys(self, place: Place) -> list[str]:
        """Return a mapping's keys; none where there is none."""
        node = self._walk(place)[1]
        return list(node.content) if node is not None and isinstance(node.content, dict) else []

    def line_of(self, complaint: str) -> int:
        """Return the line that a complaint about a sweep is about, by the names in it."""
        section, _, field = complaint.partition(":")[0].partition(".")
        if field in self.keys((section,)):
            return self.line((section, field))
        place: Place = () if complaint.startswith("name ") and "name" in self.keys(()) else ("sweep",)
        return self._line_about(place, complaint)

    def _line_about(self, section: Place, complaint: str) -> int:
        """Return the line of the first name in a complaint that the section knows."""
        for name in re.findall(r"'([^']*)'", complaint):
            for place in ((*section, "parameters"), (*section, "zipped"), (*section, "env")):
                if name in self.keys(place):
                    return self.line((*place, name))
            overrides = self._walk((*section, "overrides"))[1]
            for item in overrides.content if overrides is not None and isinstance(overrides.content, list) else ():
                if str(item.content).startswith(f"{name}="):
                    return item.line
        known = self.keys(section)
        return self.line((*section, *[word for word in re.findall(r"\w+", complaint) if word in known][:1]))

    def validate(self, model: type[Model], place: Place) -> Model:
        """Read a section; an empty one has no fields."""
        line, node = self._walk(place)
        section = ".".join(map(str, place))
        content = {} if node is None or node.content is None else node.content
        if not isinstance(content, dict):
            assert node is not None
            raise DefinitionError(f"{section}: must be a mapping of names to values, not {_kind(node)}", line=line)
        fields = model.model_fields
        given = {key: value.value(as_text=key in fields and _is_text(fields[key].annotation)) for key, (_, value) in content.items()}
        made = model.__new__(model)
        try:
            BaseModel.__init__(made, **given)  # the models' own would say what is wrong without the lines
        except ValidationError as error:
            raise self._complaint(error, model, place) from None
        return made

    def _complaint(self, error: ValidationError, model: type[BaseModel], place: Place) -> DefinitionError:
        found = []
        for detail, (field, what) in zip(error.errors(include_url=False), problems(error, model), strict=True):
            where = ".".join(filter(None, (*map(str, place), field)))
            line = self.line((*place, *detail["loc"])) if detail["loc"] else self._line_about(place, what)
            found.append((line, f"{where}: {what}"))
        found.sort(key=lambda one: one[0])
        first, *rest = found
        return DefinitionError("; ".join([first[1], *(f"line {line}: {what}" for line, what in rest)]), line=first[0])


def _is_text(annotation: Any) -> bool:
    """Whether a field holds text alone, so that a number there is meant as it is written."""
    leaves = [annotation]
    for one in leaves:  # grows while it is walked
        leaves += get_args(one)
    return not any(leaf in (int, bool, Any) for leaf in leaves if isinstance(leaf, type) or leaf is Any)


def _kind(node: _Node) -> str:
    return "a list" if isinstance(node.content, list) else "a mapping" if isinstance(node.content, dict) else repr(node.content)


def _compose(text: str) -> _Node | None:
    """Read one YAML document; None where there is nothing."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    try:
        return _Composer(YAML(typ="safe", pure=True).parse(text)).document()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(filter(None, (error.context, error.problem)))
        raise DefinitionError(f"this is no YAML: {said}", line=None if mark is None else mark.line + 1) from None
    except ReaderError as error:
        raise DefinitionError(f"this is no YAML: {error.reason}", line=text.count("\n", 0, error.position) + 1) from None
    except YAMLError as error:
        raise DefinitionError(f"this is no YAML: {error}") from None


class _Composer:
    """Make nodes of a parser's events (https://yaml.org/spec/1.2.2/#32-processes-and-models)."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self._anchors: dict[str, _Node | None] = {}  # None while it is read: it can't hold itself

    def document(self) -> _Node | None:
        root = None
        for event in self._events:
            match type(event).__name__:
                case "DocumentStartEvent" if root is not None:
                    raise DefinitionError("a second document begins here; a definition is one", line=_line(event))
                case "StreamStartEvent" | "DocumentStartEvent" | "DocumentEndEvent" | "StreamEndEvent":
                    pass
                case _:
                    root = self._node(event, depth=0)
        return None if root is None or root.content is None else root

    def _node(self, event: Any, depth: int) -> _Node:
        if depth > _DEEPEST:
            raise DefinitionError("this is nested too deep", line=_line(event))
        kind = type(event).__name__
        if kind == "AliasEvent":
            return self._alias(event)
        if event.tag is not None and str(event.tag) != "!":
            raise DefinitionError(f"the tag {event.tag} is not read here; write plain values, and text in quotes", line=_line(event))
        if event.anchor:
            self._anchors[event.anchor] = None
        match kind:
            case "SequenceStartEvent":
                node = self._sequence(event, depth)
            case "MappingStartEvent":
                node = self._mapping(event, depth)
            case _:
                plain = event.style in (None, "") and event.tag is None
                node = _Node(parse_scalar(event.value) if plain else event.value, _line(event), event.value)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: Any) -> _Node:
        if event.anchor not in self._anchors:
            raise DefinitionError(f"the alias *{event.anchor} has no anchor &{event.anchor} before it", line=_line(event))
        node = self._anchors[event.anchor]
        if node is None:
            raise DefinitionError(f"the alias *{event.anchor} stands inside its own anchor, and would never end", line=_line(event))
        return node

    def _sequence(self, event: Any, depth: int) -> _Node:
        items = [self._node(item, depth + 1) for item in self._until("SequenceEndEvent")]
        return _Node(items, _line(event), size=self._size(items, event))

    def _mapping(self, event: Any, depth: int) -> _Node:
        entries: dict[str, tuple[int, _Node]] = {}
        merged: dict[str, tuple[int, _Node]] = {}
        for key_event in self._until("MappingEndEvent"):
            key = self._node(key_event, depth + 1)
            if key.written is None:
                raise DefinitionError(f"{_kind(key)} can't be a key; write text", line=key.line)
            value = self._node(next(self._events), depth + 1)
            if key.written == "<<" and getattr(key_event, "style", None) in (None, ""):
                for source in value.content if isinstance(value.content, list) else [value]:
                    if not isinstance(source.content, dict):
                        raise DefinitionError(f"<< merges mappings, not {_kind(source)}", line=key.line)
                    merged = {**source.content, **merged}
                continue
            if key.written in entries:
                first = entries[key.written][0]
                raise DefinitionError(f"{key.written!r} stands here twice, first on line {first}; give it once", line=_line(key_event))
            entries[key.written] = (_line(key_event), value)
        whole = {**merged, **entries}
        return _Node(whole, _line(event), size=self._size([node for _, node in whole.values()], event))

    def _until(self, end: str) -> Iterator[Any]:
        return iter(partial(self._next_or_end, end), None)

    def _next_or_end(self, end: str) -> Any:
        event = next(self._events)
        return None if type(event).__name__ == end else event

    def _size(self, nodes: list[_Node], event: Any) -> int:
        size = 1 + sum(node.size for node in nodes)
        if size > _LARGEST:
            raise DefinitionError(
                f"this holds more than {_LARGEST:,} values; use {{range: …}}, or make the sweep in Python", line=_line(event)
            )
        return size


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
