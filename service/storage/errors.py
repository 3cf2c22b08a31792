"""Errors of the database engines, independent of their drivers, and reasons not to start on a database.

EngineError
├── EngineUnavailable    the database cannot be reached or used now: the same call may succeed later
├── RowsLocked           another process keeps rows locked that this statement needs
└── StatementRejected    this statement can never succeed: invalid values, a violated constraint
StartRefused             nothing may be written to the database until the problem in the message is fixed
├── DataDirTaken         another firstopen process uses this directory
├── SchemaTooNew         a newer firstopen has migrated the database
├── MigrationFailed      the database refuses a migration: for example, the user may not create tables
├── ImportFailed         the file of an earlier version cannot be imported
└── SecretNotListed      the data needs a secret that FIRSTOPEN_SECRET does not list
"""


class EngineError(Exception):
    """The base class of an engine's errors."""


class EngineUnavailable(EngineError):
    """The database cannot be reached or used: down, full, read-only, damaged, or lacking a table or right."""


class RowsLocked(EngineError):
    """Another process keeps rows locked that a statement needs: the same statement may succeed later."""


class StatementRejected(EngineError):
    """A statement can never succeed."""


class StartRefused(Exception):
    """Nothing may be written to the database. The message says how to fix that, and contains no secret."""


class DataDirTaken(StartRefused):
    """Another firstopen process uses this directory."""


class SchemaTooNew(StartRefused):
    """A newer firstopen has migrated the database."""


class MigrationFailed(StartRefused):
    """The database refuses a migration."""


class ImportFailed(StartRefused):
    """The file of an earlier version cannot be imported."""


class SecretNotListed(StartRefused):
    """The data needs a secret that FIRSTOPEN_SECRET does not list."""
