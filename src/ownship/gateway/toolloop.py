"""The loop with the gateway's own tools: the model asks, the gateway calls, the model reads the result and goes on.

To the client it is one reply: text and reasoning stream on through all turns, `max_tokens` and usage are those of all of them.
Calls of the client's own tools end it, as without MCP. If a turn asks for tools of both kinds, the client's go back to it and the
gateway's are not called: their results would be lost, for the client knows nothing of them, and the model can ask again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from ownship.gateway.config import Privacy
from ownship.gateway.mcp import Offer, Toolbox
from ownship.gateway.trace import ToolRun, Trace
from ownship.gateway.types import (
    Event,
    Finished,
    GatewayError,
    Message,
    Part,
    Reasoning,
    ReasoningDelta,
    Request,
    Started,
    Text,
    TextDelta,
    ToolCall,
    ToolDelta,
    ToolResult,
    Usage,
    Used,
    invalid,
)

_AT_ONCE = 16  # calls that one turn may make


async def run(request: Request, stream: Callable[[Request], AsyncGenerator[Event, None]], toolbox: Toolbox, privacy: Privacy,
              rounds: int, trace: Trace, deadline: float) -> AsyncGenerator[Event, None]:
    """The reply to `request` with the tools that its `privacy` label allows. `stream` asks a model; it is called for each turn, at
    most `rounds` + 1 times, and has to reserve and settle what the turn costs.

    Raises GatewayError as `stream` does, 504 when the deadline (on `time.monotonic`) passes during a call, and 400 for `n` > 1 and
    for a prefill.
    """
    none = request.tool_choice == "none" or request.prompt is not None
    offers = {} if none else await toolbox.offers(privacy)
    if not offers:
        async with aclosing(stream(request)) as events:
            async for event in events:
                yield event
        return
    if request.prefill:
        raise invalid("a reply that goes on from an assistant's message does not go with tools that the gateway calls", "messages")
    if request.n > 1:
        raise invalid("n > 1 does not go with tools that the gateway calls", "n")
    if clash := next((tool.name for tool in request.tools if tool.name in offers), None):
        raise invalid(f"the name of the tool {clash!r} is taken by one of the gateway's", "tools")
    request = replace(request, tools=(*request.tools, *(offer.tool for offer in offers.values())))
    mine = frozenset(tool.name for tool in request.tools) - frozenset(offers)
    total, said, bound = Usage(), False, request.max_tokens
    for turn_number in range(rounds + 1):
        last = turn_number == rounds
        turn = _Turn(mine)
        # text before a call would spoil a reply that must be JSON; so it waits until the turn shows what it is
        held: list[Event] = []
        async with aclosing(stream(replace(request, tool_choice="none") if last else request)) as events:
            async for event in events:
                for out in turn.take(event):
                    if isinstance(out, Started) and turn_number:
                        continue
                    if isinstance(out, TextDelta) and request.format is not None:
                        held.append(out)
                    elif isinstance(out, TextDelta) and out.text and said and not turn.said_before(out):
                        yield replace(out, text=f"\n\n{out.text}")
                    else:
                        yield out
        total = _sum(total, turn.usage)
        said = said or bool(turn.text)
        again = bool(turn.calls) and not turn.clients and turn.finished.reason in ("tool_calls", "stop")
        if again and last:
            raise GatewayError(502, "upstream", f"the model went on asking for tools after {rounds} rounds")
        if again and bound is not None and total.completion >= bound:
            again, turn.finished = False, Finished(0, "length")
        if not again:
            for out in held:
                yield out
            yield turn.finished
            yield Used(total)
            return
        calls = [ToolCall(call.id or f"call_{turn_number}_{index}", call.name, call.arguments)
                 for index, call in enumerate(turn.calls.values())]
        results = await _call_all(calls, offers, trace, deadline)
        request = replace(
            request, messages=(*request.messages, turn.message(calls), Message("tool", tuple(results))),
            max_tokens=None if bound is None else bound - total.completion,
            # the call that was demanded has been made; demanded again it would never end
            tool_choice=request.tool_choice if request.tool_choice in ("auto", "none") else "auto")


@dataclass
class _Call:
    id: str
    name: str
    arguments: str = ""


@dataclass
class _Turn:
    """What a model said in one turn, put together as it streams."""

    mine: frozenset[str]  # the names of the client's tools
    parts: list[Part] = field(default_factory=list)
    text: str = ""
    calls: dict[int, _Call] = field(default_factory=dict)  # for the gateway, by the upstream's number
    clients: dict[int, int] = field(default_factory=dict)  # the client's calls: the upstream's number → the client's
    finished: Finished = field(default_factory=lambda: Finished(0, "stop"))
    usage: Usage = field(default_factory=Usage)
    thought: str = ""

    def take(self, event: Event) -> list[Event]:
        """Keeps what is needed of an event; gives what the client is to see of it."""
        if isinstance(event, Finished):
            self.finished = event
            return []
        if isinstance(event, Used):
            self.usage = event.usage
            return []
        if isinstance(event, ToolDelta):
            return self._tool(event)
        if isinstance(event, TextDelta):
            self.text += event.text
        elif isinstance(event, ReasoningDelta):
            self.thought += event.text
            if event.signature is not None or event.redacted is not None:
                self.parts.append(Reasoning(self.thought, event.signature, event.redacted))
                self.thought = ""
        return [event]

    def said_before(self, event: TextDelta) -> bool:
        return len(self.text) > len(event.text)

    def message(self, calls: list[ToolCall]) -> Message:
        thought = [Reasoning(self.thought)] if self.thought else []
        return Message("assistant", (*self.parts, *thought, *([Text(self.text)] if self.text else []), *calls))

    def _tool(self, event: ToolDelta) -> list[Event]:
        number = event.call
        if number not in self.calls and number not in self.clients:
            if event.name in self.mine:
                self.clients[number] = len(self.clients)
            else:  # a name that nobody knows is answered here: the model is told which there are
                self.calls[number] = _Call(event.id or "", event.name or "")
        if number in self.clients:
            return [replace(event, call=self.clients[number])]
        self.calls[number].arguments += event.arguments
        return []


async def _call_all(calls: list[ToolCall], offers: dict[str, Offer], trace: Trace, deadline: float) -> list[ToolResult]:
    """All calls of a turn at once; results in their order."""
    tasks = [asyncio.create_task(_call(call, offers, trace, deadline)) for call in calls[:_AT_ONCE]]
    try:
        async with asyncio.timeout_at(deadline):
            results = await asyncio.gather(*tasks)
    except TimeoutError:
        raise GatewayError(504, "timeout", "the deadline has passed during a call of a tool") from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    late = [ToolResult(call.id, (Text(f"not called: at most {_AT_ONCE} calls at once"),), failed=True) for call in calls[_AT_ONCE:]]
    return [*results, *late]


async def _call(call: ToolCall, offers: dict[str, Offer], trace: Trace, deadline: float) -> ToolResult:
    offer = offers.get(call.name)
    if offer is None:
        return ToolResult(call.id, (Text(f"there is no such tool; there are: {', '.join(offers)}"),), failed=True)
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return ToolResult(call.id, (Text("the arguments are not a JSON object"),), failed=True)
    loop = asyncio.get_running_loop()
    started, began = trace.now(), loop.time()
    result = await offer.server.call(offer.name, arguments, call.id, max(0.0, deadline - began))
    trace.tools.append(ToolRun(call.name, started, loop.time() - began, result.failed))
    return result


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(a.prompt + b.prompt, a.completion + b.completion, a.cached + b.cached, a.reasoning + b.reasoning,
                 a.written + b.written)
