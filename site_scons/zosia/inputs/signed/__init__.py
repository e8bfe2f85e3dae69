"""Catalogues from elsewhere, which a key that this user trusts has signed."""
