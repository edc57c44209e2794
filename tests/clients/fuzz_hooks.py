"""For schemathesis: bodies that are right ask a model that is there, and for few tokens, so that they get past the first look."""

from __future__ import annotations

import os
from typing import Any

import schemathesis

MODEL = os.environ.get("OWNSHIP_FUZZED_MODEL", "")
_BOUNDS = {"/v1/chat/completions": "max_tokens", "/v1/completions": "max_tokens", "/v1/messages": "max_tokens",
           "/v1/responses": "max_output_tokens"}


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return body
    name = _BOUNDS.get(context.operation.path)
    changed = {**body, "model": MODEL}
    if name is not None and name != "max_output_tokens" and isinstance(body.get(name, 4), int):
        changed[name] = min(body.get(name, 4), 4)
    return changed
