"""The frame of the pages that a run leaves: one HTML file each, nothing loaded from elsewhere, dark or light like the screen."""

from __future__ import annotations

from html import escape


def document(title: str, style: str, body: str) -> str:
    """A whole page. `style` is added to what all pages share; `body` is HTML, in which everything from a model is escaped."""
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
            f"<style>{_STYLE}{style}</style></head><body><main>\n{body}\n</main></body></html>\n")


_STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #fff; --ink: #1c2733; --quiet: #6b7a89; --line: #e2e6ea;
  --good: #1a8f5a; --bad: #c8503c; --warn: #c98a0c; }
@media (prefers-color-scheme: dark) { :root { --paper: #12171d; --card: #1b222b; --ink: #e6ebf0; --quiet: #93a1af;
  --line: #2c3641; --good: #4cc38a; --bad: #f0806c; --warn: #f0b849; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 80px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.02em; }
.lead { color: var(--quiet); margin: 0 0 28px; }
code { font: .88rem/1.45 ui-monospace, monospace; }
"""
