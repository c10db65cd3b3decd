"""Stage ``map``: the user's own Python, a function of the payload or a class with ``process``.

The function form is ``f(payload: bytes) -> bytes | None``: the result becomes the payload, None leaves it. The
class form is the whole ``Stage`` contract; it is constructed with ``options`` once per worker.
"""

from __future__ import annotations

import difflib
import importlib
import inspect as introspection
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from streamspec.core.component import StageConfigBase
from streamspec.core.errors import ConfigError, StageError, StreamspecError
from streamspec.core.interfaces import Segment, Stage, StageContext
from streamspec.core.paths import InputFile
from streamspec.stages.by_message import describes_payload, message_spans

PayloadFunction = Callable[[bytes], bytes | bytearray | memoryview | None]


class MapConfig(StageConfigBase):
    """Call the user's own code."""

    type: Literal["map"] = Field(description="The user's own function or class.")
    function: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$",
        description="`module:function` or `module:Class`. A function takes the payload as bytes and gives the new one, "
        "or None to leave it; a class has `process(segment, context)`.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments for the class, or for each call of the function."
    )
    unit: Literal["segment", "message"] = Field(
        default="segment",
        description="What a function is called with: the payload of the whole `segment`, or each `message` of it, "
        "whose result sinks then write as a message of its own. A class decides for itself.",
    )
    path: tuple[InputFile, ...] = Field(
        default=(),
        validate_default=True,
        description="Folders searched for the module before the installed ones; the folder of the configuration "
        "file and the working folder are always searched.",
    )

    @field_validator("path", mode="before")
    @classmethod
    def _with_the_configuration_folder(cls, value: Any, info: ValidationInfo) -> Any:
        folders = [value] if isinstance(value, str) else list(value)
        base = (info.context or {}).get("base")
        return folders if base is None else [*folders, Path(base).absolute()]

    def build(self) -> Stage:
        """Import the module and make the stage. Raises ConfigError when there is no such thing."""
        folders = [*map(str, self.path), "."]
        for folder in reversed(folders):
            if folder not in sys.path:
                sys.path.insert(0, folder)
        target = _find(self.function, folders)
        if introspection.isclass(target):
            return _construct(target, self.function, self.options)
        if not callable(target):
            raise ConfigError("is neither a function nor a class", where="stages.map.function", value=self.function)
        return FunctionStage(self.function, target, self.options, by_message=self.unit == "message")


class FunctionStage:
    """A stage made of a function of the payload."""

    def __init__(
        self, name: str, function: Callable[..., Any], options: dict[str, Any], *, by_message: bool = False
    ) -> None:
        self._name = name
        self._function = function
        self._options = options
        self._by_message = by_message

    def process(self, segment: Segment, context: StageContext) -> None:
        """Exchange the payload for the function's result."""
        payload = segment.payload
        if self._by_message and len(segment.packets) > 1 and describes_payload(segment):
            messages = [bytes(payload[start:end]) for start, end in message_spans(segment)]
            results = [self._result(message) for message in messages]
            if any(result is not None for result in results):
                pairs = zip(messages, results, strict=True)
                segment.replace_messages([old if new is None else bytes(new) for old, new in pairs])
        elif (result := self._result(bytes(payload))) is not None:
            segment.payload = memoryview(result)

    def _result(self, payload: bytes) -> bytes | bytearray | memoryview | None:
        result = self._function(payload, **self._options)
        if result is None or isinstance(result, bytes | bytearray | memoryview):
            return result
        raise StageError("the function must return bytes or None", where=self._name, value=type(result).__name__)


def _find(name: str, folders: Sequence[str]) -> Any:
    module_name, _, attribute = name.partition(":")
    found = _import(module_name, name, folders)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(
                f"{module_name} has no {part}",
                where="stages.map.function",
                value=name,
                allowed=_near(part, dir(found)),
                next_step=f"it is in {getattr(found, '__file__', module_name)}",
            )
        found = getattr(found, part)
    return found


def _import(module: str, name: str, folders: Sequence[str]) -> Any:
    """The module. Whatever it raises is the user's to mend, so it becomes a ConfigError with its place."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            present = [found.name for found in pkgutil.iter_modules(list(folders))]
            raise ConfigError(
                f"there is no module {error.name}",
                where="stages.map.function",
                value=name,
                allowed=_near(error.name, present),
                next_step="add its folder to `path`",
            ) from error
        raise _failed(module, name, error) from error
    except Exception as error:
        raise _failed(module, name, error) from error


def _failed(module: str, name: str, error: Exception) -> ConfigError:
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
    else:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename}:{last.lineno}"
    return ConfigError(
        f"the module {module} cannot be imported: {type(error).__name__}: {error}",
        where="stages.map.function",
        value=name,
        next_step=f"see {place}",
    )


def _near(name: str, names: Iterable[str]) -> str | None:
    near = difflib.get_close_matches(name, names, n=3)
    return f"near names: {', '.join(near)}" if near else None


def _construct(target: type[Any], name: str, options: dict[str, Any]) -> Stage:
    try:
        stage: Stage = target(**options)
    except StreamspecError:
        raise
    except Exception as error:
        raise ConfigError(
            f"cannot be constructed: {type(error).__name__}: {error}",
            where="stages.map.options",
            value=options,
            next_step=f"see {name}",
        ) from error
    if not callable(getattr(stage, "process", None)):
        raise ConfigError("the class has no process(segment, context)", where="stages.map.function", value=name)
    return stage
