"""Say it, walk in it: worlds from words."""
