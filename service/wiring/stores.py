"""Build the stores over one database: SQLite in the data directory, or a PostgreSQL that replicas share."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from msgspec import structs

from service.aio.tasks import cancel_all
from service.attribution.recent_erasures import RecentErasures
from service.config.settings import Settings, SettingsError
from service.domain.errors import StoreFailed
from service.storage import import_v3
from service.storage.cache import MemoryOpenCache
from service.storage.calibration import CalibrationStore
from service.storage.claims import ClaimStore
from service.storage.clicks import expire_clicks
from service.storage.database import Database
from service.storage.device_sessions import DeviceSessionStore
from service.storage.encryption import Cipher
from service.storage.engines.port import Engine
from service.storage.engines.sqlite import SqliteEngine
from service.storage.erasures import KEPT_S, ErasureStore
from service.storage.errors import ImportFailed
from service.storage.fingerprints import SecretCheck
from service.storage.housekeeping import Housekeeping
from service.storage.import_v3 import Imported, import_old_file
from service.storage.learned_rates import RateStore
from service.storage.migrate import log_migrations, migrate
from service.storage.migrations import Migration
from service.storage.open_pages import PAGE_TIMEOUT_S, OpenPages
from service.storage.opens import SqlOpenStore
from service.storage.outbox import SqlOutboxStore
from service.storage.short_links import ShortLinkStore
from service.storage.statements import Row, Statement
from service.storage.touches import TouchStore
from service.telemetry import Event, Log, Metrics
from service.telemetry.background import Background
from service.wiring.from_settings import claims_ttl_s, clicks_ttl_s, memory_limits, opens_ttl_s, secret_kept_s
from service.wiring.in_force import InForce

_RETRY_S = 1.0

Clock = Callable[[], float]


class Stores:
    """All stores, over one database, and the in-process cache.

    ``clock`` is monotonic, ``unix_time`` Unix time, both in seconds. Raises ``SettingsError`` for an invalid
    FIRSTOPEN_DATABASE_URL.
    """

    def __init__(
        self,
        in_force: InForce,
        log: Log,
        metrics: Metrics,
        background: Background,
        clock: Clock,
        unix_time: Clock,
    ) -> None:
        settings = in_force.now.settings
        self._background = background
        self.database = Database(
            engine(settings),
            log,
            check=secret_check(settings).verify,
            committed=metrics.store_commits.inc,
        )
        self.cipher = Cipher(settings.secrets)
        self._kept_erasures = ErasureStore(self.database, unix_time)
        self.erasures = RecentErasures(self._kept_erasures, background, unix_time, KEPT_S)
        self.cache = MemoryOpenCache(memory_limits(settings), clock, self.erasures.covers)
        self.opens = SqlOpenStore(self.database, self.cipher, clock=clock, unix_time=unix_time)
        self.pages = OpenPages(self._read_page, unix_time)
        self.claims = ClaimStore(self.database, unix_time)
        self.touches = TouchStore(self.database, self.cipher, clock)
        self.device_sessions = DeviceSessionStore(self.database, unix_time)
        self.links = ShortLinkStore(self.database, self.cipher)
        self.calibration = CalibrationStore(self.database, unix_time)
        self.rates = RateStore(self.database, unix_time)
        self.outbox = SqlOutboxStore(self.database, self.cipher, unix_time)

        def before_ms(ttl_s: Callable[[Settings], float]) -> int:
            return int((unix_time() - ttl_s(in_force.now.settings)) * 1000)

        self._housekeeping = Housekeeping(
            (
                lambda: self.opens.expire(before_ms(opens_ttl_s), before_ms(clicks_ttl_s)),
                lambda: self.claims.expire(before_ms(claims_ttl_s)),
                lambda: self.links.expire(before_ms(opens_ttl_s)),
                lambda: expire_clicks(self.database, before_ms(clicks_ttl_s)),
                self._kept_erasures.expire,
                self.device_sessions.expire,
                self.calibration.expire,
                self.rates.expire,
            ),
            background,
        )

    async def open(self) -> None:
        """Connect to the database and start the background tasks; raises ``StartRefused``."""
        await self.database.open()
        self._reading_devices = self._background.spawn(self._read_devices(), "known_devices")
        await self.erasures.load()
        self._kept_erasures.follow(self.erasures.learn, self._background)
        self._housekeeping.start()

    async def close(self) -> None:
        """Stop the background tasks, write pending rows and disconnect."""
        await cancel_all([self._reading_devices])
        await self._housekeeping.close()
        await self._kept_erasures.close()
        await self.erasures.close()
        await self.database.close()

    async def _read_devices(self) -> None:
        """Load the known devices; retry every second while the database cannot be read."""
        while True:
            try:
                return await self.opens.read_devices()
            except StoreFailed:
                await asyncio.sleep(_RETRY_S)

    async def _read_page(self, query: Statement) -> list[Row]:
        return await self.database.read(query.sql, *query.values, timeout_s=PAGE_TIMEOUT_S)

    def problems(self) -> list[str]:
        """Return what does not work, one message for each problem."""
        failing, problem = self.database.failing, self._housekeeping.problem
        return [*([f"database: {failing}: no leads"] if failing else []), *([problem] if problem else [])]


class Prepared(NamedTuple):
    """What was done to the database before the service accepts requests."""

    migrations: list[Migration]
    imported: Imported | None

    def log(self, log: Log) -> None:
        """Log the applied migrations and the imported file."""
        log_migrations(log, self.migrations)
        if self.imported is not None:
            log.info(Event.FILE_IMPORTED, **structs.asdict(self.imported))


async def prepare(settings: Settings, log: Log) -> Prepared:
    """Migrate the database, check the secret and import the database file of an earlier version.

    Raises ``SettingsError``, ``StartRefused`` or ``EngineUnavailable``.
    """
    old_file = None if settings.database_url else import_v3.set_aside(settings.data_dir)
    old_secrets = import_v3.OldSecrets(settings.secrets)
    if old_file is not None:
        import_v3.refuse_another_secret(old_file, old_secrets)
    chosen = engine(settings)
    try:
        await chosen.connect()
        migrations = await migrate(chosen)
        await secret_check(settings).verify(chosen)
    finally:
        await chosen.close()
    if old_file is None:
        return Prepared(migrations, None)
    database = Database(engine(settings), log)
    await database.open()
    try:
        imported = await import_old_file(old_file, database, old_secrets, Cipher(settings.secrets))
    except StoreFailed as exc:
        raise ImportFailed(f"{old_file} is not imported yet ({exc}): start again") from exc
    finally:
        await database.close()
    import_v3.keep(old_file)
    return Prepared(migrations, imported)


def secret_check(settings: Settings) -> SecretCheck:
    """Build the check that FIRSTOPEN_SECRET lists the secrets that the stored data needs."""
    return SecretCheck(settings.secrets, secret_kept_s(settings))


def engine(settings: Settings, *, exclusive: bool = True) -> Engine:
    """Build the database engine without connecting; raises ``SettingsError``.

    ``exclusive``: fail on connecting if another process uses the same SQLite folder.
    """
    if not settings.database_url:
        return SqliteEngine(settings.data_dir, exclusive=exclusive)
    from service.storage.engines.postgres import BadDatabaseURL, PostgresEngine

    try:
        return PostgresEngine(settings.database_url)
    except BadDatabaseURL as exc:
        raise SettingsError(f"FIRSTOPEN_DATABASE_URL: {exc}") from exc
