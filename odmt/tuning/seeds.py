"""Seeds of single decisions: a function of the space's seed and of what is decided."""

import hashlib


def seed_of(*parts: object) -> int:
    """Return 32 bits that depend on all parts."""
    text = ":".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
