"""What a browser and an app say of themselves, compared to tell the candidates of a match apart."""

from msgspec import Struct


class Signals(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a browser and an app say of themselves; an empty text is unknown."""

    language: str = ""
    timezone: str = ""
    screen: str = ""


NO_SIGNALS = Signals()
