"""Plain HTML elements on a NiceGUI page: the studio's look is its own (studio/studio.css), none of Quasar's widgets are in it."""

from __future__ import annotations

from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

# inside of an SVG of 24 × 24, strokes of the text's colour
ICONS = {
    "undo": '<path d="M8 5 4 9l4 4"/><path d="M4 9h10a5.5 5.5 0 0 1 0 11h-4"/>',
    "redo": '<path d="m16 5 4 4-4 4"/><path d="M20 9H10a5.5 5.5 0 0 0 0 11h4"/>',
    "orbit": '<circle cx="12" cy="12" r="3"/><ellipse cx="12" cy="12" rx="9.5" ry="4.2" transform="rotate(-24 12 12)"/>',
    "walk": '<circle cx="13" cy="4.2" r="1.7"/>'
            '<path d="m7.5 11 3.2-3.2 3 1 1.6 3 2.7 1M10.8 8 10 13.5l3.2 2.8.8 5M10 13.5 9 17l-3 4"/>',
    "fit": '<path d="M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5"/>',
    "sun": '<circle cx="12" cy="12" r="4"/><path d="M12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4'
           'M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4"/>',
    "moon": '<path d="M20 14.2A8.5 8.5 0 1 1 9.8 4a6.8 6.8 0 0 0 10.2 10.2z"/>',
    "screen": '<rect x="3" y="4" width="18" height="13" rx="1.5"/><path d="M8.5 21h7M12 17v4"/>',
    "leave": '<path d="M10 4H5v16h5M15 8l4 4-4 4M19 12H9"/>',
    "down": '<path d="M12 4v11M7 10.5l5 5 5-5M4.5 20h15"/>',
    "open": '<path d="M3.5 18.5v-13h6l2 2.5h9v10.5z"/>',
    "send": '<path d="M12 20V5M6 11l6-6 6 6"/>',
    "stop": '<rect x="7" y="7" width="10" height="10" rx="1.5"/>',
    "close": '<path d="m6 6 12 12M18 6 6 18"/>',
    "bin": '<path d="M4.5 7h15M9.5 7V4.5h5V7M6.5 7l1 13h9l1-13"/>',
    "new": '<path d="M12 5v14M5 12h14"/>',
}


def tag(name: str, classes: str = "", /, text: str | None = None, **attributes: Any) -> Element:
    """An element; `_` in the names of attributes stands for `-`, an attribute that is None or False is left out."""
    element = Element(name) if text is None else TextElement(tag=name, text=text)
    if classes:
        element.classes(classes)
    for key, value in attributes.items():
        if value is not None and value is not False:
            element.props[key.rstrip("_").replace("_", "-")] = value
    return element


def svg(inside: str) -> str:
    return ('<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round" '
            f'stroke-linejoin="round" aria-hidden="true" focusable="false">{inside}</svg>')


def icon(name: str) -> Element:
    return ui.html(svg(ICONS[name]), sanitize=False, tag="span").classes("icon")


def button(classes: str, text: str = "", symbol: str = "", **attributes: Any) -> Element:
    """A button with an icon, a text or both; one with an icon alone needs aria_label."""
    element = tag("button", classes, **{"type": "button", **attributes})
    if "aria_label" in attributes:
        element.props["title"] = attributes["aria_label"]
    with element:
        if symbol:
            icon(symbol)
        if text:
            tag("span", text=text)
    return element
