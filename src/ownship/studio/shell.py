"""The frame around every page: navigation, dark and light, who is signed in. And the page at which one signs in."""

from __future__ import annotations

import hashlib
from functools import cache
from html import escape
from pathlib import Path

import nicegui
from nicegui import ui

from ownship.surfaces.markup import icon, svg, tag
from ownship.surfaces.product import Product, Session

# a lifebuoy
MARK = '<circle cx="12" cy="12" r="9"/><circle cx="12" cy="12" r="4.2"/><path d="M12 3v4.8M12 16.2V21M3 12h4.8M16.2 12H21"/>'
STATIC = f"/_nicegui/{nicegui.__version__}/static/"  # fonts and scripts that NiceGUI brings
_STYLE = Path(__file__).with_name("studio.css")
# before anything is drawn: the theme that was chosen; without one the system's
_THEME = ("<script>(() => { try { const theme = localStorage.getItem('ownship-theme');"
          " if (theme === 'dark' || theme === 'light') document.documentElement.dataset.theme = theme; } catch {} })();"
          "document.documentElement.lang = 'en';</script>")
_CHOOSE = """(event) => {
  const chosen = event.currentTarget.dataset.choice;
  if (chosen === 'system') { delete document.documentElement.dataset.theme; localStorage.removeItem('ownship-theme'); }
  else { document.documentElement.dataset.theme = chosen; localStorage.setItem('ownship-theme', chosen); }
  for (const one of document.querySelectorAll('.theme button')) one.setAttribute('aria-pressed', one.dataset.choice === chosen);
}"""
_CHOSEN = ("for (const one of document.querySelectorAll('.theme button'))"
           " one.setAttribute('aria-pressed', one.dataset.choice === (document.documentElement.dataset.theme ?? 'system'));")


@cache
def style() -> str:
    return _STYLE.read_text("utf-8")


@cache
def style_path() -> str:
    """Where the style sheet is: its name changes with its content, so that browsers may keep it."""
    return f"/studio/{hashlib.sha256(style().encode()).hexdigest()[:12]}.css"


def favicon() -> str:
    return ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#d9480f" stroke-width="2.4" '
            f'stroke-linecap="round">{MARK}</svg>')


def head() -> str:
    return f'{_THEME}<link rel="stylesheet" href="{style_path()}">'


def frame(products: tuple[Product, ...], here: Product, session: Session, page: object) -> None:
    """Draws the frame and has `page` (a function without arguments) fill it."""
    assert callable(page)
    ui.add_head_html(head())
    tag("a", "skip", "Skip to the content", href="#content")
    with tag("div", "shell"):
        with tag("header", "rail"):
            with tag("a", "brand", href="/", aria_label="Ownship studio"):
                ui.html(svg(MARK), sanitize=False, tag="span").classes("icon mark")
                tag("span", "brand-name", "Ownship")
            with tag("nav", "products", aria_label="Products"):
                for product in products:
                    current = "page" if product is here else None
                    with tag("a", "product", href=f"/{product.name}", aria_current=current):
                        ui.html(svg(product.icon), sanitize=False, tag="span").classes("icon")
                        tag("span", text=product.title)
            with tag("div", "rail-end"):
                with tag("div", "theme", role="group", aria_label="Colours"):
                    for choice, symbol in (("light", "sun"), ("system", "screen"), ("dark", "moon")):
                        label = {"light": "Light", "dark": "Dark", "system": "Like the system"}[choice]
                        with tag("button", type="button", data_choice=choice, aria_label=label, title=label,
                                 aria_pressed="false").on("click", js_handler=_CHOOSE):
                            icon(symbol)
                if session.who:
                    with tag("form", "who", action="/sign-out", method="post"), \
                            tag("button", type="submit", aria_label=f"Sign out {session.who}", title=f"Sign out {session.who}"):
                        icon("leave")
        with tag("main", "content", id="content", tabindex="-1"):
            page()
    ui.run_javascript(_CHOSEN)


def sign_in_page(problem: str, following: str) -> str:
    """The whole page, as HTML. `problem` is why it did not work, "" at first."""
    said = f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
            f'initial-scale=1"><title>Sign in · Ownship</title>'
            f'<link rel="stylesheet" href="{STATIC}fonts.css">{head()}</head><body class="sign-in"><main>'
            f'<span class="icon mark">{svg(MARK)}</span><h1>Ownship studio</h1>'
            f'<form method="post" action="/sign-in?next={escape(following, quote=True)}"><label for="key">Your key</label>'
            f'<input id="key" name="key" type="password" autocomplete="current-password" spellcheck="false" autofocus required '
            f'maxlength="200" placeholder="own-…" aria-describedby="about">{said}'
            f'<button class="primary" type="submit">Sign in</button>'
            f'<p id="about" class="quiet">Keys are made on the server: <code>ownship keys create NAME</code></p></form>'
            f"</main></body></html>")
