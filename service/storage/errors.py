"""What an engine reports, whatever its driver calls it, and why a process does not start on a database.

EngineError
├── EngineUnavailable    the database cannot be reached or used right now: the same call may succeed later
└── StatementRejected    this statement can never succeed as it is: bad values, a violated constraint
StartRefused             nothing may be written to the database until somebody changes what the message says
├── DataDirTaken         another firstopen process writes to this directory
├── SchemaTooNew         a newer firstopen has migrated the database
├── MigrationFailed      the database refuses a migration: the user may not create tables, say
├── ImportFailed         the file of an earlier version cannot be taken over
└── SecretNotListed      the data was written under a secret that FIRSTOPEN_SECRET does not list
"""


class EngineError(Exception):
    """The root of what an engine raises."""


class EngineUnavailable(EngineError):
    """The database cannot be reached or used right now: down, locked, full, read-only, damaged."""


class StatementRejected(EngineError):
    """A statement can never succeed as it is."""


class StartRefused(Exception):
    """Nothing may be written to the database. The message names the fix, and no secret."""


class DataDirTaken(StartRefused):
    """Another firstopen process writes to this directory."""


class SchemaTooNew(StartRefused):
    """A newer firstopen has migrated the database."""


class MigrationFailed(StartRefused):
    """The database refuses a migration."""


class ImportFailed(StartRefused):
    """The file of an earlier version cannot be taken over."""


class SecretNotListed(StartRefused):
    """Data was written under a secret that FIRSTOPEN_SECRET does not list."""
