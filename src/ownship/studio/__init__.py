"""The web face of the products: one frame, signed in where it has to be, everything served from here."""
