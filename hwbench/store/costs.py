"""Measured costs, kept across runs: SQLite in the user's folder, or another database that an SQLAlchemy URL names.

A sample belongs to a platform (device, runtime in one version, instruction set, threads, batch size, arithmetic, power
mode) and to a network. A network that is planned again starts with its samples; a new one on the same platform starts
with those of others that have clusters of the same kinds. Samples are only ever added, each in a transaction of its
own, so several processes may write at once and a crash loses nothing that was there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec

from hwbench.errors import StorageError, UsageError
from hwbench.records.base import Missing
from hwbench.records.planning import CostSample, Platform
from hwbench.resources import user_folder

STORE_SCHEMA = 1
VARIABLE = "HWBENCH_STORE"
FILE = "costs.sqlite"
_APPLICATION_ID = 0x68776263  # "hwbc": marks the SQLite files that are hwbench's
_BUSY_S = 30.0


def default_url() -> str:
    """Return where costs are kept: what ``HWBENCH_STORE`` says, or ``costs.sqlite`` in the user's folder."""
    return os.environ.get(VARIABLE) or f"sqlite:///{user_folder() / FILE}"


def check_store() -> None:
    """See that costs can be kept, before anything is measured; raises like :class:`CostStore`."""
    CostStore().close()


class CostStore:
    """A store that is open. Use as a context manager."""

    def __init__(self, url: str | None = None) -> None:
        """Open the store, and make it where there is none.

        Args:
            url: as SQLAlchemy has them; :func:`default_url` where there is none.

        Raises:
            StorageError: the file is damaged, none of hwbench's, of a newer hwbench, or cannot be written.
            UsageError: the URL is none, or SQLAlchemy is not installed.
        """
        self._sql = _sqlalchemy()
        self._url = url or default_url()
        self._engine = self._opened()
        self._tables = _tables(self._sql)
        with self._translated():
            self._prepare()

    def __enter__(self) -> CostStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; closing again does nothing."""
        self._engine.dispose()

    def add(self, sample: CostSample) -> None:
        """Keep a sample; the same one again changes nothing.

        Raises:
            StorageError: it cannot be written.
        """
        body = msgspec.json.encode(sample)
        samples, kinds = self._tables["samples"], self._tables["kinds"]
        digest = hashlib.sha256(body).hexdigest()
        with self._translated(), self._engine.begin() as connection:
            if connection.execute(self._sql.select(samples.c.id).where(samples.c.sha256 == digest)).first():
                return
            made = connection.execute(
                samples.insert().values(
                    sha256=digest, platform=platform_key(sample.platform), hub=sample.hub_sha256, body=body.decode()
                )
            )
            names = {time.kind for time in sample.clusters}
            number = made.inserted_primary_key[0]
            connection.execute(kinds.insert(), [{"sample": number, "kind": name} for name in sorted(names)])

    def samples_of(self, platform: Platform, hub_sha256: str) -> list[CostSample]:
        """Return the samples of a network on a platform, oldest first.

        Raises:
            StorageError: one cannot be read.
        """
        samples = self._tables["samples"]
        asked = (
            self._sql.select(samples.c.body)
            .where(samples.c.platform == platform_key(platform), samples.c.hub == hub_sha256)
            .order_by(samples.c.id)
        )
        return self._read(asked)

    def samples_with(self, platform: Platform, kinds: Collection[str], *, but: str = "") -> list[CostSample]:
        """Return the samples of other networks on a platform that have clusters of any of these kinds, oldest first.

        Args:
            platform: of the measurements.
            kinds: of clusters.
            but: a network, by the hash of its hub, that is left out.

        Raises:
            StorageError: one cannot be read.
        """
        samples, table = self._tables["samples"], self._tables["kinds"]
        asked = (
            self._sql.select(samples.c.body)
            .where(
                samples.c.platform == platform_key(platform),
                samples.c.hub != but,
                samples.c.id.in_(self._sql.select(table.c.sample).where(table.c.kind.in_(sorted(kinds)))),
            )
            .order_by(samples.c.id)
        )
        return self._read(asked)

    def _read(self, asked: Any) -> list[CostSample]:
        with self._translated(), self._engine.connect() as connection:
            bodies = [row[0] for row in connection.execute(asked)]
        try:
            return [msgspec.json.decode(body, type=CostSample) for body in bodies]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(f"{self._where} holds a sample that cannot be read: {error}", hint=_AFRESH) from error

    def _opened(self) -> Any:
        try:
            url = self._sql.engine.make_url(self._url)
        except self._sql.exc.ArgumentError as error:
            raise UsageError(
                f"'{self._url}' is no URL of a database", hint="such as sqlite:////path/costs.sqlite"
            ) from error
        sqlite = url.get_backend_name() == "sqlite"
        self._where = str(url.database) if sqlite else url.render_as_string(hide_password=True)
        if sqlite and url.database and url.database != ":memory:":
            try:
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"cannot make {Path(url.database).parent}: {error.strerror or error}") from error
        try:
            engine = self._sql.create_engine(url, **({"connect_args": {"timeout": _BUSY_S}} if sqlite else {}))
        except (ImportError, self._sql.exc.NoSuchModuleError) as error:
            raise UsageError(f"the driver of '{self._where}' is not installed: {error}") from error
        if sqlite:
            _own_transactions(self._sql, engine)
        return engine

    def _prepare(self) -> None:
        """Make the tables in a new database; refuse one of somebody else, and one of a newer hwbench."""
        with self._engine.begin() as connection:
            names = set(self._sql.inspect(connection).get_table_names())
            sqlite = self._engine.dialect.name == "sqlite"
            marked = sqlite and connection.exec_driver_sql("PRAGMA application_id").scalar() == _APPLICATION_ID
            if names and ("hwbench_costs" not in names or (sqlite and not marked)):
                held = ", ".join(sorted(names)[:5])
                raise StorageError(f"{self._where} is not a store of hwbench's: it holds {held}", hint=_ANOTHER)
            meta = self._tables["meta"]
            if not names:
                if sqlite:
                    connection.exec_driver_sql(f"PRAGMA application_id = {_APPLICATION_ID}")
                meta.metadata.create_all(connection)
                connection.execute(meta.insert().values(schema_version=STORE_SCHEMA))
                return
            version = connection.execute(self._sql.select(meta.c.schema_version)).scalar()
            if not isinstance(version, int) or version > STORE_SCHEMA:
                raise StorageError(
                    f"{self._where} was written by a newer hwbench (format {version}; this one reads {STORE_SCHEMA})",
                    hint="upgrade hwbench to read it",
                )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._sql.exc.SQLAlchemyError as error:
            words = str(getattr(error, "orig", None) or error).splitlines()[0]
            hint = _AFRESH if "malformed" in words or "not a database" in words else None
            raise StorageError(f"cannot use the store {self._where}: {words}", hint=hint) from error


_ANOTHER = f"{VARIABLE} names another place"
_AFRESH = f"move the file away and measure again, or let {VARIABLE} name another place"


def platform_key(platform: Platform) -> str:
    """Return what tells platforms apart, in 64 hexadecimal digits: a reason counts by its code, not its wording.

    The device's title is for people, and not in it.
    """
    facts = {
        name: f"missing:{value.code}" if isinstance(value := getattr(platform, name), Missing) else value
        for name in platform.__struct_fields__
        if name != "title"
    }
    facts["isa"] = sorted(platform.isa)
    return hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()


def _sqlalchemy() -> Any:
    try:
        import sqlalchemy
    except ImportError as error:
        raise UsageError("keeping costs needs SQLAlchemy", hint="pip install 'hwbench-nn[plan]'") from error
    return sqlalchemy


def _tables(sql: Any) -> dict[str, Any]:
    metadata = sql.MetaData()
    return {
        "meta": sql.Table("hwbench_costs", metadata, sql.Column("schema_version", sql.Integer, nullable=False)),
        "samples": sql.Table(
            "samples",
            metadata,
            sql.Column("id", sql.Integer, primary_key=True),
            sql.Column("sha256", sql.String(64), unique=True, nullable=False),
            sql.Column("platform", sql.String(64), index=True, nullable=False),
            sql.Column("hub", sql.String(64), index=True, nullable=False),
            sql.Column("body", sql.Text, nullable=False),
        ),
        "kinds": sql.Table(
            "kinds",
            metadata,
            sql.Column("sample", sql.Integer, sql.ForeignKey("samples.id"), primary_key=True),
            sql.Column("kind", sql.String(300), primary_key=True, index=True),
        ),
    }


def _own_transactions(sql: Any, engine: Any) -> None:
    """Let a transaction of SQLite take the lock at its beginning: two that read and then write would else deadlock.

    As SQLAlchemy's documentation of its SQLite dialect has it ("serializable isolation / savepoints").
    """

    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sql.event.listen(engine, "connect", connected)
    sql.event.listen(engine, "begin", begun)
