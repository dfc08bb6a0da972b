"""The one mechanism of settings: frozen dataclasses whose fields say all that is known of them.

A field made by :func:`setting` carries its help, what it allows and since when it exists. From
that come the checks, wherever a value is from (Python, a TOML file, a stored ``config.json``, the
command line), the messages, and the options of every command (:mod:`eqprop.cli.options`)::

    @final
    @dataclass(frozen=True, kw_only=True)
    class MySettings(Settings):
        steps: int = setting(20, "T, steps of the free phase", allowed=whole(1))

        def check_together(self) -> None:
            self.require("steps", self.steps != 13, "another number")

A setting is a ``bool``, or an ``int``, a ``float``, a ``str`` or a ``Literal`` of names, or a
``tuple`` of any number of one of these; it may be none if its type says so. A list may stand for a
tuple, a whole number for any number, and the scalars and arrays of numpy for those of Python.

It knows nothing of torch, so that ``--help`` and the refusal of a bad setting come at once.
"""

import difflib
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, asdict, field, fields, replace
from typing import Any, Literal, NamedTuple, Self, get_args, get_origin

from eqprop.errors import ConfigurationError
from eqprop.registries import Registry

__all__ = [
    "Allowed",
    "Kind",
    "Settings",
    "UnknownSettingsError",
    "device",
    "different",
    "each",
    "kind_of",
    "nonzero",
    "number",
    "options_of",
    "seeds",
    "setting",
    "whole",
]


class UnknownSettingsError(ValueError):
    """Stored settings that this version does not have: their names."""


class Allowed(NamedTuple):
    """A constraint: a test of values of the right type, and what messages say was expected."""

    test: Callable[[Any], bool]
    expected: str


def whole(least: int, most: int | None = None) -> Allowed:
    """Whole numbers from ``least`` on, or up to ``most``."""
    if most is None:
        return Allowed(
            # Beyond, nothing would ever come to its end, and much could not count.
            lambda n: least <= n < 2**63,
            f"a whole number of at least {least}, below 2^63",
        )
    said = {2**63 - 1: "2^63 − 1"}.get(most, str(most))
    return Allowed(lambda n: least <= n <= most, f"a whole number from {least} to {said}")


def number(expected: str, test: Callable[[float], bool]) -> Allowed:
    """Finite numbers that pass the test."""
    return Allowed(lambda x: math.isfinite(x) and test(x), expected)


def nonzero() -> Allowed:
    """Finite numbers of either sign."""
    return number("a finite number other than 0", lambda x: x != 0)


def each(expected: str, test: Callable[[Any], bool]) -> Allowed:
    """Sequences every item of which passes the test."""
    return Allowed(lambda items: all(map(test, items)), expected)


def different(
    expected: str, test: Callable[[Any], bool], counts: Callable[[int], bool] = lambda _: True
) -> Allowed:
    """The same, no item twice, as many as ``counts`` allows."""

    def right(items: Sequence[Any]) -> bool:
        return len(set(items)) == len(items) and counts(len(items)) and all(map(test, items))

    return Allowed(right, expected)


def seeds() -> Allowed:
    """One for every trial."""
    said = "different whole numbers from 0 to 2^63 − 1"
    return different(said, lambda n: 0 <= n < 2**63, lambda n: n > 0)


def device() -> Allowed:
    """What torch may compute on."""
    pattern = re.compile(r"cpu|cuda(:(0|[1-9][0-9]?))?")
    return Allowed(lambda name: bool(pattern.fullmatch(name)), "cpu, cuda or cuda:N")


def setting(
    default: Any,
    help: str,
    *,
    allowed: Allowed | None = None,
    choices: Registry | None = None,
    group: str = "settings",
    since: str | None = None,
    metavar: str | None = None,
    shown: str | None = None,
    flag: str | None = None,
) -> Any:
    """A field of :class:`Settings`.

    Args:
        default: its value where none is given.
        help: what it is, for a person who has never seen it.
        allowed: what it must be, besides of its type; none is always allowed where the type has it.
        choices: where its names come from.
        group: under which heading ``--help`` lists it.
        since: the version that brought it, if not the first: runs stored before may lack it, and
            had its default.
        metavar: what ``--help`` calls its value.
        shown: what ``--help`` calls its default.
        flag: another name it has on the command line, which ``--help`` lists first.
    """
    metadata = {"help": help, "allowed": allowed, "choices": choices, "group": group}
    metadata |= {"since": since, "metavar": metavar, "shown": shown, "flag": flag}
    return field(default=default, metadata=metadata)


class Kind(NamedTuple):
    """What the type of a setting says.

    Attributes:
        item: the type of its value, or of each of several.
        several: whether it is a tuple of them.
        optional: whether it may be none.
        names: what to choose from, as messages say it; none where it is no choice.
        known: whether a name is one of them.
    """

    item: type
    several: bool
    optional: bool
    names: tuple[str, ...]
    known: Callable[[str], bool]

    @property
    def expected(self) -> str:
        """What messages say was expected."""
        one = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}
        many = {int: "whole numbers", float: "numbers", str: "names"}
        if self.names:
            said = f"{'some' if self.several else 'one'} of {', '.join(self.names)}"
        else:
            said = (many if self.several else one)[self.item]
        return f"{said}, or none" if self.optional else said

    def plain(self, value: Any) -> Any:
        """A value as Python has it: tuples for lists, floats for whole numbers, and nothing of
        numpy or torch."""
        value = _plain(value)
        if self.several and isinstance(value, list | tuple | range):
            return tuple(self._item(_plain(item)) for item in value)
        return self._item(value)

    def _item(self, value: Any) -> Any:
        # A whole number beyond all floating-point ones stays what it is, and is refused as such.
        whole_number = type(value) is int and abs(value) < 2**1000
        return float(value) if self.item is float and whole_number else value

    def wanted(self, value: Any) -> str:
        """What messages say was expected instead of this value, with its type if that is why."""
        if self.several and not isinstance(value, tuple):
            return f"{'' if self.names else 'a list of '}{self.expected}, got {_type(value)}"
        items = value if self.several else (value,)
        wrong = next((item for item in items if type(item) is not self.item), self.item())
        return self.expected + f", got {_type(wrong)}" * (type(wrong) is not self.item)

    def holds(self, value: Any) -> bool:
        """Whether a value is of the kind."""
        if value is None:
            return self.optional
        if isinstance(value, tuple) != self.several:
            return False
        return all(
            type(item) is self.item and (not self.names or self.known(item))
            for item in (value if self.several else (value,))
        )


def kind_of(of: Field[Any]) -> Kind:
    """The kind of a setting."""
    item: Any = of.type
    if isinstance(item, str):
        raise TypeError(f"{of.name}: expected a type, got {item!r}: no postponed annotations here")
    optional = get_origin(item) in (types.UnionType, typing.Union)
    item = get_args(item)[0] if optional else item
    several = get_origin(item) is tuple
    item = get_args(item)[0] if several else item
    if get_origin(item) is Literal:
        return Kind(str, several, optional, get_args(item), get_args(item).__contains__)
    registry: Registry | None = of.metadata["choices"]
    if registry is None:
        return Kind(item, several, optional, (), lambda _: True)
    return Kind(item, several, optional, registry.offered, registry.knows)


class Settings:
    """Base of all settings; derive a frozen dataclass from it.

    Raises:
        ConfigurationError: a value of the wrong type or outside what is allowed.
    """

    __dataclass_fields__: typing.ClassVar[dict[str, Field[Any]]]

    def __post_init__(self) -> None:
        for of in fields(self):
            kind = kind_of(of)
            value = kind.plain(getattr(self, of.name))
            object.__setattr__(self, of.name, value)
            self.require(of.name, kind.holds(value), kind.wanted(value))
            allowed: Allowed | None = of.metadata["allowed"]
            if allowed is not None and value is not None:
                self.require(of.name, allowed.test(value), allowed.expected)
        self.check_together()

    def check_together(self) -> None:
        """Refuse what does not go together; nothing in general."""

    def require(self, name: str, condition: object, expected: str) -> None:
        """Refuse the value of a setting unless the condition holds."""
        if not condition:
            raise ConfigurationError(name, getattr(self, name), expected)

    def override(self, values: Mapping[str, Any]) -> Self:
        """These settings with other values for some.

        Raises:
            ConfigurationError: an unknown setting, or a value that is not allowed.
        """
        for name, value in values.items():
            if name not in self.__dataclass_fields__:
                known = list(self.__dataclass_fields__)
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise ConfigurationError(name, value, f"one of {', '.join(known)}{hint}")
        return replace(self, **values)

    def differences(self, other: Self) -> dict[str, Any]:
        """The settings in which this one is another, with their values here."""
        return {
            of.name: value
            for of in fields(self)
            if (value := getattr(self, of.name)) != getattr(other, of.name)
        }

    def to_json(self) -> dict[str, Any]:
        """All settings, as JSON has them: lists for tuples."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave, now or in an earlier version.

        Raises:
            KeyError: settings that were always there are missing; their names.
            UnknownSettingsError: one is there that a later version must have brought.
            ConfigurationError: a value that is not allowed.
        """
        always = {of.name for of in fields(cls) if of.metadata["since"] is None}
        if missing := sorted(always - set(values)):
            raise KeyError(", ".join(missing))
        if unknown := sorted(set(values) - set(cls.__dataclass_fields__)):
            raise UnknownSettingsError(", ".join(unknown))
        return cls().override(values)

    @classmethod
    def read(cls, name: str, words: Sequence[str] | str | bool) -> Any:
        """The value that the words of a command line mean for a setting.

        Args:
            words: as argparse has them: a list for several, a ``bool`` for a switch.

        Raises:
            ConfigurationError: they do not mean one.
        """
        kind = kind_of(cls.__dataclass_fields__[name])
        if isinstance(words, bool):
            return words
        if kind.item is bool:
            raise ConfigurationError(name, words, kind.expected)
        if kind.optional and words in ("none", ["none"]):
            return None
        try:
            if kind.several:
                return tuple(_value(kind.item, word) for word in words)
            return _value(kind.item, words)
        except ValueError:
            commas = kind.several and any("," in word for word in words)
            between = ", with blanks between them instead of commas" * commas
            raise ConfigurationError(name, words, kind.expected + between) from None

    @classmethod
    def words(cls, name: str, value: Any) -> list[str]:
        """The words of a command line that mean this value: what :meth:`read` undoes.

        An option of several values takes all words that follow it, up to the next option: what is
        no option belongs before it.
        """
        option = options_of(cls.__dataclass_fields__[name])[0]
        if isinstance(value, bool):
            return [option if value else f"--no-{option[2:]}"]
        if isinstance(value, tuple):
            return [option, *map(str, value)]
        return [f"{option}={'none' if value is None else value}"]


def options_of(of: Field[Any]) -> list[str]:
    """What a setting is called on the command line; the first name is the one to use."""
    names = [of.name] if of.metadata["flag"] is None else [of.metadata["flag"], of.name]
    return [f"--{name.replace('_', '-')}" for name in names]


def _value(item: type, word: Any) -> Any:
    # int() and float() of their own accord take underscores, blanks and digits of other scripts.
    if item is not str and not re.fullmatch(r"[-+.0-9a-zA-Z]+", word):
        raise ValueError(word)
    return item(word)


def _plain(value: Any) -> Any:
    """The scalars and arrays of numpy and torch, neither of which is to be loaded here, as Python
    has them."""
    return value.tolist() if hasattr(value, "tolist") else value


def _type(value: Any) -> str:
    if value is None:
        return "none"
    return f"the text {value!r}" if isinstance(value, str) else type(value).__name__
