"""Errors both ways: what a client is told, and what an upstream's refusal means."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping
from typing import Any

from ownship.gateway.types import ErrorKind, GatewayError

_OPENAI: dict[ErrorKind, str] = {
    "invalid": "invalid_request_error", "not_found": "invalid_request_error", "too_large": "invalid_request_error",
    "authentication": "authentication_error", "permission": "permission_error", "rate_limit": "rate_limit_error",
    "overloaded": "server_error", "upstream": "server_error", "timeout": "server_error", "internal": "server_error"}
_ANTHROPIC: dict[ErrorKind, str] = {
    "invalid": "invalid_request_error", "not_found": "not_found_error", "too_large": "request_too_large",
    "authentication": "authentication_error", "permission": "permission_error", "rate_limit": "rate_limit_error",
    "overloaded": "overloaded_error", "upstream": "api_error", "timeout": "timeout_error", "internal": "api_error"}
CODES: dict[ErrorKind, str] = {"rate_limit": "rate_limit_exceeded", "overloaded": "overloaded", "timeout": "timeout"}
_LONGEST = 600  # characters of an upstream's message that are passed on


def openai_error(error: GatewayError) -> dict[str, Any]:
    """The body of a refusal in OpenAI's formats."""
    return {"error": {"message": error.message, "type": _OPENAI[error.kind], "param": error.param,
                      "code": error.code or CODES.get(error.kind)}}


def anthropic_error(error: GatewayError) -> dict[str, Any]:
    """The body of a refusal in Anthropic's format; `param` and `code` have no place there, and the message says as much."""
    return {"type": "error", "error": {"type": _ANTHROPIC[error.kind], "message": error.message}}


def headers(error: GatewayError) -> dict[str, str]:
    """The headers of a refusal."""
    return {} if error.retry_after is None else {"Retry-After": str(max(1, math.ceil(error.retry_after)))}


def from_status(status: int, head: Mapping[str, str], body: Any) -> GatewayError:
    """What a status other than 200 means to the client. `body` is the JSON that came with it, in whatever shape, or None.

    A refused key is the gateway's own, so the client hears of a broken upstream, not that its own key is wrong.
    """
    message, param, code = _said(body)
    wait = _retry_after(head)
    if status in (401, 403):
        return GatewayError(502, "upstream", f"the upstream refused the gateway's own key ({status})", code="upstream_key_refused")
    if status == 404:
        return GatewayError(404, "not_found", message or "the upstream has no such model", param or "model",
                            code or "model_not_found")
    if status == 413:
        return GatewayError(413, "too_large", message or "the upstream takes no request of this size", param, code)
    if status == 429:
        return GatewayError(429, "rate_limit", message or "the upstream takes no more requests now", None, code, wait)
    if status in (408, 504):
        return GatewayError(504, "timeout", message or "the upstream took too long", None, code, wait)
    if status in (503, 529):
        return GatewayError(503, "overloaded", message or "the upstream is overloaded", None, code, wait)
    if 400 <= status < 500:
        return GatewayError(400, "invalid", message or f"the upstream refused the request ({status})", param, code)
    return GatewayError(502, "upstream", message or f"the upstream answered with status {status}", None, code, wait)


def in_stream(body: Any) -> GatewayError:
    """An error that an upstream tells in the midst of a reply, when it can no longer send a status."""
    message, param, code = _said(body)
    inner = body.get("error") if isinstance(body, dict) else None
    source = inner if isinstance(inner, dict) else body if isinstance(body, dict) else {}
    kind = f"{source.get('type')} {source.get('code')}"
    if "rate_limit" in kind or "429" in kind:
        return GatewayError(429, "rate_limit", message or "the upstream takes no more requests now", None, code)
    if "overloaded" in kind or "503" in kind or "529" in kind:
        return GatewayError(503, "overloaded", message or "the upstream is overloaded", None, code)
    if "timeout" in kind:
        return GatewayError(504, "timeout", message or "the upstream took too long", None, code)
    if "invalid" in kind:
        return GatewayError(400, "invalid", message or "the upstream refused the request", param, code)
    return GatewayError(502, "upstream", message or "the upstream failed in the midst of its reply", None, code)


def garbled(what: str) -> GatewayError:
    return GatewayError(502, "upstream", f"the upstream's reply is not in its format: {what}")


def broken_off() -> GatewayError:
    return GatewayError(502, "upstream", "the upstream's reply broke off before its end")


def _said(body: Any) -> tuple[str, str | None, str | None]:
    """Message, param and code in the shapes that servers use: {"error": {...}}, {"error": "..."}, {"message"}, {"detail"}."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return "", None, None
    inner = body.get("error")
    source = inner if isinstance(inner, dict) else body
    message = inner if isinstance(inner, str) else source.get("message") or source.get("detail")
    param, code = source.get("param"), source.get("code")
    return (message[:_LONGEST] if isinstance(message, str) else "",
            param[:200] if isinstance(param, str) else None, code[:200] if isinstance(code, str) else None)


def _retry_after(head: Mapping[str, str]) -> float | None:
    """Seconds: from `retry-after-ms`, or from `retry-after` as a number or as a date."""
    try:
        if "retry-after-ms" in head:
            seconds = float(head["retry-after-ms"]) / 1000
        else:
            value = head["retry-after"]
            try:
                seconds = float(value)
            except ValueError:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (KeyError, ValueError):
        return None
    return min(max(seconds, 0.0), 86_400.0) if math.isfinite(seconds) else None
