"""The QR code of a link."""

from __future__ import annotations

from typing import Any

import segno

LONGEST = 1500  # characters: beyond, the squares are too small for a camera in the last row


def qr_code(address: str) -> dict[str, Any]:
    """{"rows": rows of "0" and "1", the quiet zone included} of an untrusted text, or {"refused": why not}."""
    if not isinstance(address, str) or not address.startswith(("http://", "https://")):
        return {"refused": "Only an address of this app has a QR code."}
    if len(address) > LONGEST:
        return {"refused": "This link is too long for a QR code: shorten the prompt."}
    code = segno.make_qr(address, error="m")
    return {"rows": ["".join(map(str, row)) for row in code.matrix_iter(border=4)]}
