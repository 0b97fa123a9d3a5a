"""How is a run written down? One flat TOML file, read strictly into a frozen dataclass.

The only override is ``section.key=value``. Nothing is guessed: an unknown key, a missing key or a
value of another type is an error that names the key and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import cattrs

__all__ = ["read_recipe", "read_section", "write_json"]

T = TypeVar("T")


def read_recipe(path: str | os.PathLike, kind: type[T], overrides: Iterable[str] = ()) -> T:
    """Read a recipe.

    Parameters
    ----------
    path : path
        A TOML file. Its sections are the fields of `kind` that are dataclasses themselves, or
        tuples of a dataclass (``[[name]]``).
    kind : type
        The dataclass to make.
    overrides : iterable of str
        ``"key=value"`` or ``"section.key=value"``, or ``"section.0.key=value"`` for the first of
        several; the value is TOML, or else text as it stands.

    Returns
    -------
    kind
        The recipe, resolved and validated.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no TOML, or a key or value is not allowed; all such keys are named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no recipe {path}; give the path of a TOML file")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path} is not valid TOML: {error}") from error
    for override in overrides:
        _override(found, override)
    problems = list(_wrong_keys(found, kind))
    if problems:
        raise ValueError(f"recipe {path}: {'; '.join(problems)}")
    try:
        return _converter().structure(found, kind)
    except cattrs.BaseValidationError as error:
        raise ValueError(f"recipe {path}: {'; '.join(_messages(error))}") from error


def read_section(values: Mapping[str, Any], kind: type[T], where: str) -> T:
    """Make a dataclass of a section of a recipe whose type another key tells.

    Parameters
    ----------
    values : mapping
        The section.
    kind : type
        The dataclass to make.
    where : str
        Name of the section in messages, such as ``"codec.config"``.

    Raises
    ------
    ValueError
        If a key or value is not allowed; all such keys are named.
    """
    problems = list(_wrong_keys(dict(values), kind, f"{where}."))
    if problems:
        raise ValueError("; ".join(problems))
    try:
        return _converter().structure(dict(values), kind)
    except cattrs.BaseValidationError as error:
        raise ValueError("; ".join(f"{where}.{m}" for m in _messages(error))) from error


def write_json(resolved: Any, path: str | os.PathLike) -> Path:
    """Write a resolved recipe (any dataclass) as JSON, whole or not at all.

    Returns
    -------
    Path
        The file written; an earlier one is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{path.name}")
    try:
        text = json.dumps(_converter().unstructure(resolved), indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _override(found: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys):
        raise ValueError(f"override {override!r} is not of the form key=value or section.key=value")
    section: Any = found
    for key in keys[:-1]:
        section = _inner(section, key, override)
    if not isinstance(section, dict):
        raise ValueError(f"override {override!r}: {keys[-1]!r} is no key of a section")
    section[keys[-1]] = _value(text.strip())


def _inner(section: Any, key: str, override: str) -> Any:
    """Return the section of a key, or of a number where there are several."""
    if isinstance(section, list):
        if not (key.isdecimal() and int(key) < len(section)):
            raise ValueError(
                f"override {override!r}: there are {len(section)} such sections, numbered from 0; "
                f"found {key!r}"
            )
        inner = section[int(key)]
    else:
        inner = section.setdefault(key, {})
    if not isinstance(inner, dict | list):
        raise ValueError(f"override {override!r}: {key!r} is a value, not a section")
    return inner


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # Text with a line break in it could smuggle in a second key; then it is just text.
    return parsed["value"] if parsed.keys() == {"value"} else text


def _wrong_keys(found: dict[str, Any], kind: type, where: str = "") -> Iterator[str]:
    """Name every unknown and every missing key, in words; types are left to cattrs."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    for key, value in found.items():
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            guess = f" Did you mean {where + close[0]!r}?" if close else ""
            section = f"section [{where[:-1]}]" if where else "the top level"
            yield (
                f"unknown key {where + key!r} (found {_short(value)}).{guess} Allowed in "
                f"{section}: {', '.join(fields)}"
            )
            continue
        inner = _section_of(hints[key])
        if inner is not None and isinstance(value, dict):
            yield from _wrong_keys(value, inner, f"{where}{key}.")
        elif inner is not None and isinstance(value, list):
            for number, one in enumerate(value):
                if isinstance(one, dict):
                    yield from _wrong_keys(one, inner, f"{where}{key}.{number}.")
    for name, field in fields.items():
        optional = dataclasses.MISSING not in (field.default,) or (
            field.default_factory is not dataclasses.MISSING
        )
        if name not in found and not optional:
            yield f"missing key {where + name!r} ({_name_of(hints[name])})"


def _section_of(hint: Any) -> type | None:
    """Return the dataclass a type asks for, also as ``Section | None`` and of several."""
    bare = get_origin(hint) in (Union, types.UnionType, tuple)
    options = get_args(hint) if bare else (hint,)
    sections = [o for o in options if dataclasses.is_dataclass(o)]
    return sections[0] if len(sections) == 1 and isinstance(sections[0], type) else None


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    # cattrs would turn 2.7 into 2 and "no" into True without a word.
    for exact in (bool, int, str):
        converter.register_structure_hook(exact, _exactly)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(Path, lambda value, _: Path(_exactly(value, str)))
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _one_of)
    converter.register_structure_hook(str | tuple[str, ...], _text_or_several)
    converter.register_structure_hook_func(
        lambda kind: dataclasses.is_dataclass(kind), _section_hook(converter)
    )
    return converter


def _section_hook(converter: cattrs.Converter):
    from cattrs.gen import make_dict_structure_fn

    made: dict[type, Any] = {}

    def structure(value: Any, kind: type) -> Any:
        if not isinstance(value, dict):
            raise TypeError(f"found {_short(value)}, expected a section")
        if kind not in made:
            made[kind] = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)
        return made[kind](value, kind)

    return structure


def _exactly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"found {_short(value)}, expected {_name_of(kind)}")
    return value


def _number(value: Any, _: type) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"found {_short(value)}, expected {_name_of(float)}")
    return float(value)


def _text_or_several(value: Any, _: Any) -> str | tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_exactly(one, str) for one in value)
    return _exactly(value, str)


def _one_of(value: Any, kind: Any) -> Any:
    allowed = get_args(kind)
    if value not in allowed:
        raise ValueError(f"found {_short(value)}, expected one of {', '.join(map(repr, allowed))}")
    return value


def _messages(error: cattrs.BaseValidationError) -> list[str]:
    def describe(reason: BaseException, kind: Any) -> str:
        if type(reason) in (TypeError, ValueError):
            return str(reason)
        return f"{reason} (expected {_name_of(kind)})"

    # cattrs writes "message @ $.section.key"; the reader's way to say it is "key: message".
    pairs = [m.rpartition(" @ $") for m in cattrs.transform_error(error, format_exception=describe)]
    return [
        f"{where.lstrip('.')}: {message}" if where.lstrip(".") else message
        for message, _, where in pairs
    ]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _name_of(kind: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if get_origin(kind) is not None:
        return str(kind).replace("typing.", "")
    return words.get(kind) or getattr(kind, "__name__", str(kind))
