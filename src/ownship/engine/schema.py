"""What a JSON schema may say for `llguidance` to enforce all of it; the rest is refused when it is compiled, not ignored."""

from __future__ import annotations

import re
from typing import Any

from ownship.errors import UserError

_MAX_DEPTH = 64  # of schemas within schemas
_MAX_REFS = 500  # different ones in a schema
_EXACT = 1 << 53  # the library reads every number as a 64-bit float
_UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")  # characters that only a \u escape could write

# What a schema may say, and of what type; the library ignores keywords it has never heard of, and misspelt ones.
_NUMBER, _SCHEMA = (int, float), (dict, bool)
_KEYWORDS: dict[str, type | tuple[type, ...]] = {
    "type": (str, list), "enum": list, "const": object, "$ref": str, "anyOf": list, "oneOf": list, "allOf": list,
    "properties": dict, "patternProperties": dict, "additionalProperties": _SCHEMA, "required": list,
    "minProperties": int, "maxProperties": int,
    "items": (dict, bool, list), "prefixItems": list, "additionalItems": _SCHEMA, "minItems": int, "maxItems": int,
    "minLength": int, "maxLength": int, "pattern": str, "format": str,
    "minimum": _NUMBER, "maximum": _NUMBER, "exclusiveMinimum": _NUMBER, "exclusiveMaximum": _NUMBER, "multipleOf": _NUMBER,
    "$defs": dict, "definitions": dict, "$schema": str, "$id": str, "id": str, "$anchor": str,
    # these say nothing about the value
    "title": str, "description": str, "$comment": str, "default": object, "examples": list, "example": object,
    "deprecated": bool, "readOnly": bool, "writeOnly": bool, "contentEncoding": str, "contentMediaType": str,
    "discriminator": object,
}


def check(root: Any) -> None:
    """Raises UserError for what the library would ignore or get wrong."""
    refs: set[str] = set()
    seen: set[int] = set()
    todo: list[tuple[Any, str, int]] = [(root, "", 0)]
    while todo:
        schema, path, depth = todo.pop()
        if schema is True or (schema is False and path) or id(schema) in seen:
            continue
        if not isinstance(schema, dict):
            raise _refusal(path, "false allows nothing" if schema is False else "a schema is an object or a truth value")
        if depth > _MAX_DEPTH:
            raise _refusal("", f"schemas are nested more than {_MAX_DEPTH} deep")
        seen.add(id(schema))
        for key, value in schema.items():
            if key not in _KEYWORDS and (not key.startswith("x-") or key == "x-guidance"):
                raise _refusal(path, f"the keyword {key[:80]!r} is not supported")
            kind = _KEYWORDS.get(key, object)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, _NUMBER)):
                raise _refusal(path, f"{key!r} has a value of the wrong type")
            if isinstance(value, int | float) and kind in (int, _NUMBER) and abs(value) > _EXACT:
                raise _refusal(path, f"{key!r} is beyond ±2^53, where numbers are no longer exact")
        _check_constants([schema.get("const"), *schema.get("enum", [])], path)
        if schema.get("minProperties", 0) > len(schema.get("required", [])) + 1:
            raise _refusal(path, "minProperties may exceed the number of required properties by one at most,"
                                 " since a further property may be written twice")
        for key in ("properties", "patternProperties", "$defs", "definitions"):
            todo += [(value, f"{path}/{key}/{name}", depth + 1) for name, value in schema.get(key, {}).items()]
        for key in ("anyOf", "oneOf", "allOf", "prefixItems", "items"):
            values = schema.get(key, [])
            todo += [(value, f"{path}/{key}", depth + 1) for value in (values if isinstance(values, list) else [values])]
        todo += [(schema[key], f"{path}/{key}", depth + 1) for key in ("additionalProperties", "additionalItems") if key in schema]
        if (ref := schema.get("$ref")) is not None:
            refs.add(ref)
            todo.append((_resolve(root, ref), ref, 0))
    if len(refs) > _MAX_REFS:
        raise _refusal("", f"it has more than {_MAX_REFS} different $ref")
    if not _ends(root, _ending_refs(root, refs)):
        raise _refusal("", "every value of it would contain another without end")


def _refusal(path: str, reason: str) -> UserError:
    return UserError(f"the JSON schema cannot be used: {reason}" + (f" (at {path[:200]!r})" if path else ""))


def _check_constants(values: list[Any], path: str) -> None:
    """Refuses what `const` and `enum` could not write."""
    while values:
        value = values.pop()
        if isinstance(value, str) and _UNWRITABLE.search(value):
            raise _refusal(path, "a constant holds a control character")
        if isinstance(value, int | float) and abs(value) > _EXACT:
            raise _refusal(path, "a constant is beyond ±2^53, where numbers are no longer exact")
        if isinstance(value, dict | list):
            values += value.values() if isinstance(value, dict) else value


def _resolve(root: Any, ref: str) -> Any:
    """What a JSON pointer (#/a/b) points to; True if that is nothing, which the library reports, or no pointer."""
    start, *parts = ref.split("/")
    for part in parts:
        part = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(root, dict) or part not in root:
            return True
        root = root[part]
    return root if start == "#" else True


def _ending_refs(root: Any, refs: set[str]) -> set[str]:
    """Those of the references that a finite value can satisfy."""
    ending: set[str] = set()
    while more := {ref for ref in refs - ending if _ends(_resolve(root, ref), ending)}:
        ending |= more
    return ending


def _ends(schema: Any, ending: set[str]) -> bool:
    """Whether a finite value can satisfy the schema, given the references of which that is known."""
    if not isinstance(schema, dict) or "const" in schema or "enum" in schema:
        return True
    if "$ref" in schema and schema["$ref"] not in ending:
        return False
    if not all(_ends(part, ending) for part in schema.get("allOf", [])):
        return False
    for key in ("anyOf", "oneOf"):
        if schema.get(key) and not any(_ends(part, ending) for part in schema[key]):
            return False
    kind = schema.get("type", "any")
    kinds = {kind} if isinstance(kind, str) else {*map(str, kind)}
    if not kinds <= {"object", "array"}:
        return True
    properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
    if "object" in kinds and all(_ends(properties.get(str(name), rest), ending) for name in schema.get("required", [])):
        return True
    items = schema.get("items", True)
    first = schema.get("prefixItems", items if isinstance(items, list) else [])
    needed = schema.get("minItems", 0)
    return "array" in kinds and all(_ends(item, ending) for item in first[:needed]) and (
        needed <= len(first) or isinstance(items, list) or _ends(items, ending))
