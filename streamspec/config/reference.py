"""The configuration reference: ``docs/configuration.md``, made of the models, so that it cannot be out of date."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from streamspec.config.models import ServiceConfig
from streamspec.core.features import TYPE_NAMES
from streamspec.core.units import format_bytes, format_seconds, parse_bytes, parse_bytes_per_second, parse_seconds

HEAD = """\
# Configuration

Made by `python -m streamspec.config.reference > docs/configuration.md` (or `make docs`) from the models that check a
file. `streamspec schema` prints the same as JSON Schema for editors, `streamspec validate FILE` checks a file.

Rules for the whole file: unknown keys are refused, with the line and the nearest known name. A *size* is a number of
bytes or text such as `64 KiB`, `2 GiB`, `10 MB`; a *duration* is a number of seconds or text such as `50 ms`, `5 min`;
a *rate* is bytes per second or text such as `12.5 MB/s`, `100 Mbit/s`. `${NAME}` and `${NAME:-default}` take scalars
from the environment. `--set a.b=c` changes one value from the command line. Relative paths of files that are read are
relative to the configuration file, those of files that are written to the working folder.
"""
_QUANTITIES: dict[Any, str] = {parse_bytes: "size", parse_seconds: "duration", parse_bytes_per_second: "rate"}
_PLAIN = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "`true` or `false`",
    SecretStr: "text, kept secret",
    Any: "anything",
    type(None): "",  # what is unset says the column of defaults
}


class Place(NamedTuple):
    """Where a model stands: ``sources.NAME``, and its ``type`` in a union."""

    path: str
    type: str = ""
    of: str = ""
    """The ``type`` of the model around it."""

    @property
    def heading(self) -> str:
        if self.type:
            return f"{self.path}: type {self.type}"
        return f"{self.path} of type {self.of}" if self.of else self.path

    @property
    def anchor(self) -> str:
        """As GitHub makes it from the heading."""
        return "".join(c for c in self.heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")


class Shape(NamedTuple):
    """An annotation taken apart: words for people, and the models and unions inside."""

    words: str
    models: tuple[tuple[str, type[BaseModel]], ...] = ()
    key: str = ""


def reference_page() -> str:
    """The page as Markdown."""
    return "\n".join(_Page().lines()) + "\n"


class _Page:
    def __init__(self) -> None:
        self._described: dict[type[BaseModel], Place] = {}

    def lines(self) -> Iterator[str]:
        yield HEAD
        yield "## Sections\n"
        yield from _table(_rows(ServiceConfig, self._links(ServiceConfig, "")))
        for name, field in ServiceConfig.model_fields.items():
            if not _shape(field).models:
                continue
            yield f"\n## {name}\n"
            yield field.description or ""
            yield from self._nested(name, field, "##")

    def _nested(self, path: str, field: FieldInfo, level: str, of: str = "") -> Iterator[str]:
        shape = _shape(field)
        for kind, model in shape.models:
            place = Place(path + shape.key, kind, of)
            if model in self._described:
                yield f"\n{place.path if not kind else f'`type: {kind}`'}: as {_link(self._described[model])}."
                continue
            self._described[model] = place
            yield from self._model(model, place, level)

    def _model(self, model: type[BaseModel], place: Place, level: str) -> Iterator[str]:
        if place.heading != place.path or "." in place.path:
            text = inspect.getdoc(model) or ""
            yield f"\n{level}# {place.heading}\n"
            yield text.split("\n\n")[0].replace("\n", " ")
        yield ""
        yield from _table(_rows(model, self._links(model, place.path, place.type)))
        for name, field in model.model_fields.items():
            yield from self._nested(f"{place.path}.{name}", field, level, place.type)

    def _links(self, model: type[BaseModel], path: str, of: str = "") -> dict[str, str]:
        found = {}
        for name, field in model.model_fields.items():
            shape = _shape(field)
            if not shape.models:
                continue
            own = f"{path}.{name}" if path else name
            kind, inner = shape.models[0]
            place = self._described.get(inner, Place(own + shape.key, kind, of))
            found[name] = f"[below](#{name})" if not path else _link(place)
        return found


def _link(place: Place) -> str:
    return f"[{place.heading}](#{place.anchor})"


def _rows(model: type[BaseModel], links: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        yield f"`{name}`", links.get(name, _shape(field).words), _default(field), field.description or ""


def _table(rows: Iterator[tuple[str, str, str, str]]) -> Iterator[str]:
    yield "| key | is | default | says |"
    yield "|---|---|---|---|"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"


def _shape(field: FieldInfo) -> Shape:
    return _taken_apart(field.annotation, tuple(field.metadata))


def _taken_apart(annotation: Any, metadata: tuple[Any, ...] = ()) -> Shape:
    for part in metadata:
        quantity = _QUANTITIES.get(getattr(part, "func", None))
        if quantity:
            return Shape(quantity)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _taken_apart(arguments[0], arguments[1:])
    if origin is Literal:
        names = "a kind of content, see [stages](stages.md#kinds-of-content)"
        return Shape(names if set(arguments) == set(TYPE_NAMES) else ", ".join(f"`{value}`" for value in arguments))
    if origin in (Union, types.UnionType):
        return _union([_taken_apart(argument) for argument in arguments])
    if origin in (tuple, list):
        inner = _taken_apart(arguments[0])
        return Shape(f"list of: {inner.words}", inner.models, "[]" if inner.models else "")
    if origin is dict:
        inner = _taken_apart(arguments[1])
        return Shape("names to values", inner.models, ".NAME" if inner.models else "")
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return Shape("section", ((_type_of(annotation), annotation),))
    return Shape(_PLAIN.get(annotation, "path" if "Path" in str(annotation) else "text"))


def _union(parts: list[Shape]) -> Shape:
    models = tuple(model for part in parts for model in part.models)
    words = " or ".join(dict.fromkeys(part.words for part in parts if part.words))
    return Shape(words, models, next((part.key for part in parts if part.key), ""))


def _type_of(model: type[BaseModel]) -> str:
    field = model.model_fields.get("type")
    arguments = get_args(field.annotation) if field is not None else ()
    return str(arguments[0]) if arguments else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return "" if _shape(field).models else "empty" if field.default_factory in (dict, list) else "see right"
    value, words = field.default, _shape(field).words
    if value is None:
        return "unset"
    if isinstance(value, BaseModel):
        kind = _type_of(type(value))
        return f"`type: {kind}`" if kind else ""
    if value == ():
        return "empty"
    return f"`{_value(value, words)}`"


def _value(value: Any, words: str) -> str:
    if words.startswith("size"):
        return format_bytes(value).replace(".0 ", " ")
    if "duration" in words and isinstance(value, float):
        return format_seconds(value) if value else "0 s"
    if words.startswith("rate"):
        return f"{value:g}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print(reference_page(), end="")
