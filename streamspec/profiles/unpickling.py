"""State of River models as bytes, and back without running anything but River's own constructors.

A pickle is a program: it can name any function of any module and call it. Here each name that a pickle asks for
is looked up in a list; what is not on it is refused before it is imported. This is the second wall: bytes come
here after their signature was checked (``signing``).

NumPy's own way of unpickling is not on the list: a type description can be forged so that bytes are taken for
pointers. Arrays and scalars are written as the name of a plain number type and bytes.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from streamspec.core.errors import UsageError
from streamspec.profiles.refusals import ContentRefused

PROTOCOL = 5

_RIVER_PACKAGES = frozenset(
    {
        "_river_rust",
        "base",
        "compose",
        "covariance",
        "drift",
        "dummy",
        "ensemble",
        "forest",
        "linear_model",
        "metrics",
        "misc",
        "neighbors",
        "optim",
        "preprocessing",
        "proba",
        "rules",
        "stats",
        "tree",
        "utils",
    }
)
"""What learns and measures; not what reads files, fetches data sets or evaluates text (datasets, stream, ...)."""

_RIVER_FUNCTIONS = frozenset({"river._river_rust.vectordict.euclidean_distance_tuple"})

_RIVER_METHODS = frozenset(
    {
        "_calc_tau_1",
        "_calc_tau_2",
        "_fixed_trigger",
        "_random_trigger",
        "_test_both",
        "_test_decrease",
        "_test_drift",
        "_test_increase",
        "_update_estimator_multivariate",
        "_update_estimator_univariate",
    }
)
"""Methods that River's estimators keep as attributes, and so pickle by name; they count and compare, no more."""

_OTHERS = frozenset(
    {
        *(f"builtins.{name}" for name in ("bool", "complex", "dict", "float", "frozenset", "int", "list", "range")),
        *(f"builtins.{name}" for name in ("set", "slice", "str", "tuple")),
        *(f"collections.{name}" for name in ("Counter", "OrderedDict", "defaultdict", "deque")),
        "datetime.datetime",
        "datetime.timedelta",
        "random.Random",
        "statistics.NormalDist",
        f"{__name__}._array",
        f"{__name__}._scalar",
    }
)
_ALLOWED = "classes of River's estimators, arrays of numbers, and Python's plain containers and numbers"


_NUMBERS = frozenset("?bBhHiIqQlLefdgFD")
"""Type characters of NumPy that stand for plain numbers."""


def _array(content: bytes, number: str, shape: tuple[int, ...], by_columns: bool) -> npt.NDArray[Any]:
    order: Literal["F", "C"] = "F" if by_columns else "C"
    return np.frombuffer(content, _number_type(number)).reshape(shape, order=order).copy(order)


def _scalar(content: bytes, number: str) -> Any:
    return np.frombuffer(content, _number_type(number), 1)[0]


def _number_type(text: str) -> np.dtype[Any]:
    number = np.dtype(str(text))
    if number.char not in _NUMBERS:
        raise ValueError(f"arrays of {text} are not stored")
    return number


def _reduce_array(array: npt.NDArray[Any]) -> tuple[Any, ...]:
    by_columns = array.flags.fnc  # kept, because the order of sums depends on it
    content = array.tobytes("F" if by_columns else "C")
    return _array, (content, _number_type(array.dtype.str).str, array.shape, by_columns)


def _reduce_scalar(scalar: Any) -> tuple[Any, ...]:
    return _scalar, (scalar.tobytes(), scalar.dtype.str)


_REDUCERS: dict[type, Any] = {np.ndarray: _reduce_array} | {np.dtype(c).type: _reduce_scalar for c in _NUMBERS}


def dump_state(state: object) -> bytes:
    """The state as bytes for ``ProfileDatabase.store_online_state`` and :func:`load_state`.

    Raises:
        UsageError: it cannot be pickled.
    """
    file = io.BytesIO()
    pickler = pickle.Pickler(file, PROTOCOL)
    pickler.dispatch_table = copyreg.dispatch_table | _REDUCERS
    try:
        pickler.dump(state)
    except (pickle.PicklingError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(f"the state of a model cannot be stored: {error}", where="profiles") from error
    return file.getvalue()


def load_state(content: bytes, *, also: Iterable[str] = (), where: str = "profiles.state") -> Any:
    """The state that :func:`dump_state` wrote. Check the signature of ``content`` first.

    Args:
        content: a pickle.
        also: further classes that may occur, as ``module.Class``.
        where: named in the error.

    Raises:
        ContentRefused: it names something that is not allowed, or is no whole pickle.
    """
    try:
        return _Unpickler(content, frozenset(also), where).load()
    except (ContentRefused, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # damaged bytes make constructors raise anything, a panic of Rust code included
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ContentRefused(
            f"the state is damaged: {told}", where=where, next_step="it is learned anew from the stream"
        ) from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, also: frozenset[str], where: str) -> None:
        super().__init__(io.BytesIO(content))
        self._also = also
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full == "builtins.getattr":
            return self._method
        if full in _OTHERS or full in self._also or full in _RIVER_FUNCTIONS:
            return super().find_class(module, name)
        if _is_river(module):
            owner, _, method = name.partition(".")
            if not method or method in _RIVER_METHODS:
                found = super().find_class(module, owner)
                if isinstance(found, type) and _is_river(found.__module__):  # not what the module has imported
                    return self._method(found, method) if method else found
        raise self._refusal(full)

    def _method(self, owner: object, name: str) -> Any:
        """In place of ``getattr``, which bound methods are pickled with."""
        kind = owner if isinstance(owner, type) else type(owner)
        if name in _RIVER_METHODS and _is_river(kind.__module__):
            return getattr(owner, name)
        raise self._refusal(f"{kind.__module__}.{kind.__qualname__}.{name}")

    def _refusal(self, full: str) -> ContentRefused:
        return ContentRefused(
            f"the state asks for {full}, which could run code",
            where=self._where,
            allowed=_ALLOWED,
            next_step="delete it; the state is learned anew from the stream",
        )


def _is_river(module: str) -> bool:
    package, _, rest = module.partition(".")
    return package == "river" and rest.partition(".")[0] in _RIVER_PACKAGES
