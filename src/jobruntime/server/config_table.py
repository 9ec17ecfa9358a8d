"""A table of `jobd.toml`: typed look-ups, each refused by file and key where it is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Mapping
from pathlib import Path

from jobruntime.model.durations import parse_duration_ms
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.limit_texts import parse_limit_texts
from jobruntime.model.limits import Limits
from jobruntime.model.quantities import parse_size


class Table:
    """One table of the file: look-ups that know the key's full name, and what was asked.

    All of them raise JobError (CONFIG_INVALID).
    """

    def __init__(self, file: Path, values: Mapping[str, object], name: str) -> None:
        """Take the table `name` of `file`; the top one's name is empty."""
        self._file = file
        self._values = values
        self._name = name
        self._known: set[str] = set()

    def has(self, key: str) -> bool:
        """Return whether the key is there."""
        self._known.add(key)
        return key in self._values

    def keys(self) -> list[str]:
        """Return the keys that are there, in the file's order."""
        return list(self._values)

    def value(self, key: str) -> object:
        """Return whatever is there; None where there is nothing, which TOML cannot say."""
        return self._values[key] if self.has(key) else None

    def texts(self, key: str) -> tuple[str, ...] | None:
        """Return a list of strings that are not empty; None where there is none."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
            raise self.bad(key, "it is not a list of words", f'write it as {key} = ["one", "two"]')
        return tuple(value)

    def truth(self, key: str) -> bool:
        """Return a boolean; false where there is none."""
        value = self.value(key)
        if value is not None and not isinstance(value, bool):
            raise self.bad(key, "it is not a boolean", "write true or false, without quotes")
        return value is True

    def table(self, key: str) -> Table:
        """Return the table below; an empty one where there is none."""
        value = self._values[key] if self.has(key) else {}
        if not isinstance(value, dict):
            raise self.bad(key, "it is not a table", f"write it as [{key}]")
        return Table(self._file, value, f"{self._name}.{key}" if self._name else key)

    def limits(self, key: str, forbidden: Container[str] = ()) -> Limits:
        """Return the limits in the table below, which has none of the forbidden ones."""
        table = self.table(key)
        for name, value in table._values.items():
            if name in forbidden:
                raise table.bad(name, f"there is no {key} for it", "remove it")
            try:
                parse_limit_texts({name: value})
            except JobError as error:
                raise table.bad(name, error.message, error.remedy) from error
        return parse_limit_texts(table._values)

    def text(self, key: str, default: str) -> str:
        """Return a string."""
        value = self._values[key] if self.has(key) else default
        if not isinstance(value, str):
            raise self.bad(key, "it is not a string", 'write it in quotes, as in key = "value"')
        return value

    def entries(self) -> Mapping[str, object]:
        """Return all of the table, unchecked."""
        self._known.update(self._values)
        return self._values

    def integer(self, key: str, default: int) -> int:
        """Return an integer."""
        value = self._values[key] if self.has(key) else default
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.bad(key, "it is not an integer", "write it without quotes and point")
        return value

    def count(self, key: str) -> int | None:
        """Return a number that is not negative; None where there is none."""
        if not self.has(key):
            return None
        value = self.integer(key, 0)
        if value < 0:
            raise self.bad(key, f"it is {value}", "give 0 or more")
        return value

    def duration_ms(self, key: str) -> int | None:
        """Return a duration; None where there is none."""
        return self._parsed(key, parse_duration_ms)

    def size_bytes(self, key: str) -> int | None:
        """Return a size; None where there is none."""
        return self._parsed(key, parse_size)

    def _parsed(self, key: str, parse: Callable[[str], int]) -> int | None:
        if not self.has(key):
            return None
        try:
            return parse(self.text(key, ""))
        except JobError as error:
            raise as_key(self, key, error) from error

    def path(self, key: str, default: str) -> Path:
        """Return a path, absolute; what is relative starts at the file's directory."""
        text = self.text(key, default)
        if not text or "\0" in text:
            raise self.bad(key, "it is empty or has a NUL", "give a path")
        return Path(os.path.normpath(self._file.parent / text))

    def refuse_unknown(self) -> None:
        """Refuse what nobody has asked for."""
        for key in self._values:
            if key not in self._known:
                known = ", ".join(sorted(self._known))
                raise self.bad(key, "there is no such key", f"remove it; known here: {known}")

    def bad(self, key: str, cause: str, remedy: str) -> JobError:
        """Return the refusal of a key."""
        name = f"{self._name}.{key}" if self._name else key
        return JobError(
            Reason.CONFIG_INVALID, f"cannot use the key {name} in {self._file}: {cause}", remedy
        )


def as_key(table: Table, key: str, error: JobError) -> JobError:
    """Return `error` as the refusal of a key."""
    if error.reason is Reason.CONFIG_INVALID:
        return error
    return table.bad(key, error.message, error.remedy)
