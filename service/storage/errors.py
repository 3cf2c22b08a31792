"""What an engine reports, whatever its driver calls it.

EngineError
├── EngineUnavailable    the database cannot be reached or used right now: the same call may succeed later
├── StatementRejected    this statement can never succeed as it is: bad values, a violated constraint
└── SchemaTooNew         a newer firstopen has migrated the database; this one must not write to it
"""


class EngineError(Exception):
    """The root of what an engine raises."""


class EngineUnavailable(EngineError):
    """The database cannot be reached or used right now: down, locked, full, read-only, damaged."""


class StatementRejected(EngineError):
    """A statement can never succeed as it is."""


class SchemaTooNew(EngineError):
    """A newer firstopen has migrated the database."""


class DataDirTaken(Exception):
    """Another firstopen process writes to this directory."""
