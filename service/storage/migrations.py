"""The schema, as numbered migrations. Each is applied once, in one transaction.

Rules: never edit a released migration; add a new one. During a rolling update, the old and the new version
use the database at the same time, so a migration only adds (expand); unused columns and tables are dropped
one release later (contract). Use only plain SQL that SQLite, PostgreSQL and PostgreSQL-compatible distributed
engines share: no sequences, no extensions. Times are Unix milliseconds; hashes are keyed by FIRSTOPEN_SECRET.
"""

from msgspec import Struct


class Migration(Struct, frozen=True):
    """One numbered change of the schema."""

    number: int
    name: str
    statements: tuple[str, ...]


_OPENS = (
    """CREATE TABLE opens (
        open_id BYTEA PRIMARY KEY,       -- 16 bytes
        app TEXT NOT NULL,
        device BIGINT NOT NULL,          -- hash of app and install, or of app, address and User-Agent
        answer_key BIGINT NOT NULL,      -- hash of device and what was opened
        network BIGINT,                  -- hash of the address's network; null where it is shared
        opened_at BIGINT NOT NULL,
        updated_at BIGINT NOT NULL,
        match_type TEXT NOT NULL,        -- deep_link, dub_id, install_referrer, clipboard, touch, ip, none
        match_reason TEXT,               -- why there is no match
        guaranteed BOOLEAN NOT NULL,     -- the match cannot be wrong
        confidence DOUBLE PRECISION,     -- of a match by address: 0 to 1
        source TEXT NOT NULL,            -- dub, cache, stale, parsed
        pending BOOLEAN NOT NULL,        -- the answer may still improve
        role TEXT NOT NULL,              -- first_launch: first-launch evidence decided it; click; other
        click_id TEXT,
        link_id TEXT,
        link_domain TEXT,
        link_key TEXT,
        app_version TEXT,
        device_traits TEXT,              -- JSON: system, model, version; where matching needs them
        record BYTEA NOT NULL            -- the rest: MessagePack, encrypted where it may be personal
    )""",
    "CREATE INDEX opens_by_device ON opens (device, role, opened_at)",
    "CREATE INDEX opens_by_network ON opens (network, updated_at) WHERE network IS NOT NULL",
    "CREATE INDEX opens_by_time ON opens (opened_at, open_id)",
    """CREATE VIEW opens_readable AS SELECT
        open_id, app, device, opened_at, updated_at, match_type, match_reason, guaranteed, confidence, source,
        pending, click_id, link_id, link_domain, link_key, app_version FROM opens""",
)
_CLAIMS = (
    """CREATE TABLE claims (
        click_id TEXT PRIMARY KEY,
        device BIGINT NOT NULL,
        claimed_at BIGINT NOT NULL
    )""",
    "CREATE INDEX claims_by_device ON claims (device)",
    "CREATE INDEX claims_by_time ON claims (claimed_at)",
)
_CLICKS = (
    """CREATE TABLE clicks (
        app TEXT NOT NULL,
        click_id TEXT NOT NULL,
        network BIGINT NOT NULL,
        clicked_at BIGINT NOT NULL,
        record BYTEA NOT NULL,           -- link, device traits and query: encrypted MessagePack
        PRIMARY KEY (app, click_id)
    )""",
    "CREATE INDEX clicks_by_network ON clicks (app, network, clicked_at)",
    "CREATE INDEX clicks_by_time ON clicks (clicked_at)",
    """CREATE TABLE click_syncs (
        app TEXT PRIMARY KEY,
        turn BIGINT NOT NULL,            -- how many syncs have begun
        finished_turn BIGINT NOT NULL,   -- the newest that has read everything
        synced_to BIGINT NOT NULL,       -- every older click is known, but for those that Dub shows late
        unread TEXT NOT NULL,            -- events that the last sync could not read: JSON, by what is wrong
        scope TEXT NOT NULL,             -- the configuration that decides which clicks are synced
        owner TEXT,                      -- the replica that syncs, until its lease ends
        lease_until BIGINT NOT NULL
    )""",
)
_OUTBOX = (
    """CREATE TABLE outbox (
        id TEXT PRIMARY KEY,
        app TEXT NOT NULL,
        kind TEXT NOT NULL,              -- open, lead, sale
        state TEXT NOT NULL,             -- queued, delivered, dead
        ordering_key TEXT NOT NULL,      -- leads and sales with the same one are sent one after another
        sequence BIGINT NOT NULL,        -- their order: Unix microseconds, or one more than the last
        depends_on TEXT NOT NULL,        -- the open or install whose click it needs, or empty
        subject TEXT NOT NULL,           -- the install that it is erased with: a hash, an open's id, or empty
        created_at BIGINT NOT NULL,
        next_attempt_at BIGINT NOT NULL,
        attempts BIGINT NOT NULL,
        reason TEXT NOT NULL,            -- why the last attempt failed
        owner TEXT,                      -- the replica that sends it, until its lease ends
        lease_until BIGINT NOT NULL,     -- by the database's clock
        event_key TEXT,                  -- hash of a lead's customer and event
        idempotency_key TEXT,            -- hash of its caller's Idempotency-Key
        body_key TEXT,                   -- hash of the body that came with that
        payload BYTEA                    -- encrypted; null once it is delivered
    )""",
    "CREATE INDEX outbox_due ON outbox (kind, app, next_attempt_at, sequence) WHERE state = 'queued'",
    """CREATE INDEX outbox_by_key ON outbox (ordering_key, sequence)
        WHERE state = 'queued' AND kind <> 'open'""",
    # the state is in it for SQLite, which would prefer outbox_by_state otherwise, and walk the whole queue
    """CREATE INDEX outbox_by_dependency ON outbox (depends_on, state, app)
        WHERE state = 'queued' AND depends_on <> ''""",
    "CREATE INDEX outbox_by_subject ON outbox (subject) WHERE subject <> ''",
    "CREATE INDEX outbox_by_state ON outbox (state, created_at, kind, depends_on)",
    # a lead that is reported again conflicts with the first, on whichever replica
    """CREATE UNIQUE INDEX outbox_by_event ON outbox (event_key)
        WHERE event_key IS NOT NULL AND state <> 'dead'""",
    """CREATE UNIQUE INDEX outbox_by_idempotency ON outbox (idempotency_key)
        WHERE idempotency_key IS NOT NULL AND state <> 'dead'""",
)
_SHARED = (
    """CREATE TABLE erasures (
        device BIGINT PRIMARY KEY,
        erased_at BIGINT NOT NULL
    )""",
    """CREATE TABLE call_budgets (
        workspace TEXT NOT NULL,         -- hash of the Dub API key
        slot BIGINT NOT NULL,            -- one for each call that may be made in a second
        free_at BIGINT NOT NULL,         -- a second after its last call
        PRIMARY KEY (workspace, slot)
    )""",
    """CREATE TABLE secrets (
        fingerprint TEXT PRIMARY KEY,    -- of a FIRSTOPEN_SECRET that data here was written under
        first_used_at BIGINT NOT NULL,
        replaced_at BIGINT               -- when another became the current one; null: it is
    )""",
)

_TEST_DEVICES = (
    "ALTER TABLE opens ADD COLUMN test_device TEXT",  # the name of a test session; null: a real install
    "CREATE INDEX opens_by_test_device ON opens (app, test_device) WHERE test_device IS NOT NULL",
    """CREATE TABLE test_sessions (
        app TEXT NOT NULL,
        name TEXT NOT NULL,              -- what a phone reports as testDevice
        started_at BIGINT NOT NULL,
        expires_at BIGINT NOT NULL,
        PRIMARY KEY (app, name)
    )""",
    """CREATE TABLE test_repeats (          -- opens of test devices that were reported again
        open_id BYTEA NOT NULL,
        repeated_at BIGINT NOT NULL,
        app TEXT NOT NULL,
        test_device TEXT NOT NULL,
        PRIMARY KEY (open_id, repeated_at)
    )""",
    "CREATE INDEX test_repeats_by_time ON test_repeats (repeated_at)",
    "DROP VIEW opens_readable",
    """CREATE VIEW opens_readable AS SELECT
        open_id, app, device, opened_at, updated_at, match_type, match_reason, guaranteed, confidence, source,
        pending, click_id, link_id, link_domain, link_key, app_version, test_device FROM opens""",
)

_TOUCHES = (
    # a page saw this visitor: the row is a touch, with or without a click of Dub's
    "ALTER TABLE clicks ADD COLUMN is_touch BOOLEAN NOT NULL DEFAULT FALSE",
    "CREATE INDEX clicks_touches ON clicks (app, clicked_at) WHERE is_touch",
)

_SHORT_LINKS = (
    """CREATE TABLE short_links (
        app TEXT NOT NULL,
        name TEXT NOT NULL,              -- hash of what was asked for, and of the install
        device BIGINT,                   -- the install that asked for it; null: a backend
        template TEXT NOT NULL,          -- or empty
        created_at BIGINT NOT NULL,
        record BYTEA,                    -- the link, encrypted; null until Dub has created it
        PRIMARY KEY (app, name)
    )""",
    "CREATE INDEX short_links_by_device ON short_links (device, created_at) WHERE device IS NOT NULL",
    "CREATE INDEX short_links_by_time ON short_links (created_at)",
)

_SHADOW_MATCHES = (
    """CREATE TABLE shadow_matches (        -- matching, compared with opens whose link is certain
        app TEXT NOT NULL,
        day BIGINT NOT NULL,             -- when it began, in UTC
        outcome TEXT NOT NULL,
        percent BIGINT NOT NULL,         -- the confidence in the likeliest click; -1: there was none
        agrees BOOLEAN NOT NULL,         -- that click is on the certain link
        opens BIGINT NOT NULL,
        PRIMARY KEY (app, day, outcome, percent, agrees)
    )""",
    "CREATE INDEX shadow_matches_by_day ON shadow_matches (day)",
)

_LEARNED_COUNTS = (
    """CREATE TABLE learned_counts (        -- what first opens say of an app's installs
        app TEXT NOT NULL,
        day BIGINT NOT NULL,             -- when it began, in UTC
        name TEXT NOT NULL,
        total BIGINT NOT NULL,
        PRIMARY KEY (app, day, name)
    )""",
    "CREATE INDEX learned_counts_by_day ON learned_counts (day)",
)

MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "initial schema", (*_OPENS, *_CLAIMS, *_CLICKS, *_OUTBOX, *_SHARED)),
    Migration(2, "test devices", _TEST_DEVICES),
    Migration(3, "touches", _TOUCHES),
    Migration(4, "short links", _SHORT_LINKS),
    Migration(5, "shadow matches", _SHADOW_MATCHES),
    Migration(6, "learned rates", _LEARNED_COUNTS),
)
