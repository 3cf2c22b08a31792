"""firstopen: which screen an opened app should show, and which click led there.

Imports point one way (``tests/unit/test_architecture.py`` holds that for every module)::

    cli -> app -> wiring -> everything
    server -> api -> attribution -> domain
    matching, dub, storage, outbox, ratelimit, config -> domain

``domain`` also holds every port (Protocol). ``telemetry`` and ``aio`` import nothing of ours, and neither
does ``sandbox``, a Dub small enough to embed.
"""
