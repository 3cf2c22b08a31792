"""Convert keyed hashes to the database's form: 64 bits, as a signed integer."""

_HALF = 2**63


def to_signed(number: int) -> int:
    """Return an unsigned 64-bit number as SQL's signed integer."""
    return number - _HALF


def to_unsigned(number: int) -> int:
    """Return SQL's signed integer as the unsigned 64-bit number."""
    return number + _HALF


def device_number(device: str) -> int:
    """Return a device's 16 hex characters as SQL's signed integer."""
    return int(device, 16) - _HALF


def device_name(number: int) -> str:
    """Return a device's 16 hex characters."""
    return f"{to_unsigned(number):016x}"
