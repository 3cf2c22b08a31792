"""What readiness says about the process, beside whether it accepts opens."""

from msgspec import Struct


class ConfigStatus(Struct, rename="camel"):
    """Which configuration is in force. ``revision`` is a hash of the text of ``firstopen.toml``."""

    revision: str
    checked_at: float  # Unix seconds: changes of the files from before this time have been read
    rejected: str | None = None  # the problem of the file, if it is not in force
    waiting_for_restart: tuple[str, ...] = ()  # changed settings that only a restart takes over

    def problems(self) -> list[str]:
        """Return what does not work, one message for each problem."""
        rejected = [] if self.rejected is None else [f"config: the file is not in force: {self.rejected}"]
        return [
            *rejected,
            *(f"config: {name} takes effect after a restart" for name in self.waiting_for_restart),
        ]
