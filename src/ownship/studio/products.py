"""The products that the studio shows, in this order. One more is one more line."""

from __future__ import annotations

from ownship.surfaces.product import Product
from ownship.surfaces.worlds import page as worlds

PRODUCTS: tuple[Product, ...] = (
    Product("worlds", "Worlds", worlds.ICON, worlds.page, worlds.routes),
)
