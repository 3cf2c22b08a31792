"""firstopen: where an opened app should land, and which click brought it there.

``api`` takes requests in and ``resolve`` decides; what the decision needs from outside (Dub, memory)
it asks for through the Protocols of ``resolve.ports``, which ``dub`` and ``store`` fill. ``app.py``
is the only place where these parts meet; ``sandbox`` is a Dub small enough to embed.

    api -> resolve -> (ports) -> dub | store
"""
