"""Settings come from the environment, are read once and passed down frozen; what is wrong is listed whole, and nothing starts.

Every variable begins with TRIMTAB_; any may instead be given as NAME_FILE, the path of a file that holds the value (for secrets).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

from services.adapters import faultpoint
from services.kernel.errors import Misconfigured

PREFIX = "TRIMTAB_"
SPARE = 1.0  # days that an archive may be away before Kafka deletes what it lacks
DAILY = ".checkpoints"  # beside the archived topics, after their prefix
OTHERS = {"TRIMTAB_REQUIRE", "TRIMTAB_TEST_DATA", "TRIMTAB_CACHE", faultpoint.VARIABLE}  # of the tests


Secrets: TypeAlias = list[str] | dict[str, list[str]]


class Settings(BaseModel):
    """One field per variable: TRIMTAB_DATA is `data`. The description is the variable's documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    data: Path = Field(Path("var"), description="folder of the log, the database and the keys")
    database: str = Field(
        "", description="address of the database, as postgresql+asyncpg://USER@HOST/NAME?sslmode=verify-full; empty: a SQLite file in the data folder"
    )
    database_password: str = Field("", repr=False, description="the password of its user, best as TRIMTAB_DATABASE_PASSWORD_FILE")
    host: str = Field("127.0.0.1", pattern=r"^[0-9A-Za-z.:-]{1,253}$", description="address to listen on; `trimtab up` listens on loopback only")
    port: int = Field(8420, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    workspace: str = Field("main", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="the workspace of webhooks and of the first key")
    secret: str = Field(
        "", repr=False, pattern=r"^([0-9a-f]{64,128})?$",
        description="the server's own secret, 64 hexadecimal digits, the same for all services; `trimtab up` keeps its own in the data folder"
    )
    advertise: str = Field(
        "", description="address at which others reach this process, as http://HOST:PORT: other engines (rules), people (console); else where it listens"
    )
    ingest_url: str = Field("", description="where the pages' process (console) finds ingest, as http://HOST:PORT")
    rules_url: str = Field("", description="and the engine (rules)")
    actions_url: str = Field("", description="and actions")
    actions: Literal["execute", "hold"] = Field("execute", description="hold parks every action instead of executing it")
    witness: Path | None = Field(
        None, description="folder outside the database for the ledger's signed heads; a database that is behind them is held; by default there is none"
    )
    settle_seconds: float = Field(
        1, ge=0.01, le=600, description="after a write without a clear answer, how long until the platform is read again; doubles each time, four times"
    )
    stalled_seconds: float = Field(
        600, ge=420, le=86_400, description="a service of production whose partition, group or queue does not come round for so long fails /livez"
    )
    linger_ms: float = Field(2, ge=0, le=10, description="how long a group commit waits for company, in milliseconds")
    checkpoint_seconds: float = Field(300, gt=0, description="a checkpoint of the engine's state is due after so many seconds, if any record came")
    checkpoint_records: int = Field(200_000, ge=1, description="or after so many records, whichever is first")
    checkpoints: str = Field("", description="folder of the checkpoints, by default `checkpoints` in the data folder, or s3://BUCKET/PREFIX")
    checkpoints_endpoint: str = Field("", description="address of their S3-compatible store, as https://HOST[:PORT]; by default that of AWS for the region")
    checkpoints_region: str = Field("us-east-1", pattern=r"^[a-z0-9-]{1,64}$", description="its region")
    checkpoints_key_id: str = Field("", description="our access key's id there; by default the machine's own credentials are asked for")
    checkpoints_secret_key: str = Field("", repr=False, description="the access key's secret, best as TRIMTAB_CHECKPOINTS_SECRET_KEY_FILE")
    archive: str = Field(
        "", description="folder of the log's sealed segments, by default `archive` in the data folder; on Kafka there is none by default, "
        "and it may be s3://BUCKET/PREFIX"
    )
    audit_days: float = Field(400, ge=1, le=36500, description="days for which a checkpoint of each day is kept in the archive of Kafka's topics")
    log_segment_hours: float = Field(24, gt=0, le=8760, description="a segment of the log is sealed and archived once it is so many hours old")
    log_segment_mb: float = Field(
        64, gt=0, le=1024, description="or once it holds so many megabytes, whichever is first; on Kafka these only cut one that is due for another reason"
    )
    log_live_days: float = Field(35, gt=0, le=36500, description="archived segments older than so many days are pruned from the live log; the archive stays")
    max_body_bytes: int = Field(5_000_000, ge=1_000, le=100_000_000, description="largest request body")
    connections: int = Field(10_000, ge=16, le=1_000_000, description="connections open at once; past it, those that have been idle longest are closed")
    rate: float = Field(0, ge=0, description="deliveries a second that one key or webhook may send, twice that at once; 0 is as many as there is room for")
    sandbox_url: str = Field("", description="address of the sandbox ad platform, where one is used")
    sandbox_token: str = Field("", repr=False, description="its bearer token")
    executors: Json[dict[str, dict[str, str]]] | dict[str, dict[str, str]] = Field(
        default_factory=dict, repr=False, description='platforms to act on, as JSON: {"house_ads": {"url": "https://...", "token": "..."}}'
    )
    webhook_secrets: Json[dict[str, Secrets]] | dict[str, Secrets] = Field(
        default_factory=dict, repr=False,
        description='active signing secrets by source, as JSON: {"sandbox": ["whsec_..."]}; of several workspaces: {"shop": {"sandbox": ["whsec_..."]}}',
    )
    clock: Path | None = Field(
        None, description="file of a simulated clock that the services on this machine share, for practice: topics and folders of their own, no real platform"
    )
    kafka: str = Field("", description="addresses of the Apache Kafka that holds the log, as host:port[,host:port]; empty: the data folder holds it")
    kafka_prefix: str = Field("trimtab", pattern=r"^[a-z][a-z0-9-]{0,62}$", description="what its topics' names begin with: trimtab.events, trimtab.decisions")
    kafka_partitions: int = Field(12, ge=1, le=1000, description="partitions of each topic, fixed once there are records: it says where a workspace's are")
    kafka_replicas: int = Field(3, ge=1, le=7, description="brokers that hold each record; all but one of them have it before it is acknowledged")
    kafka_retention_days: float = Field(0, ge=0, le=36500, description="days that the topics must keep records at least; 0 is for ever")
    kafka_each: bool = Field(False, description="ingest writes a topic more, of the same events one a record, as CloudEvents with JSON: trimtab.events.each")
    kafka_session_seconds: float = Field(
        10, ge=1, le=300, description="a member of a group that was not heard of for so long is believed dead, and the others take its partitions over"
    )
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field("PLAINTEXT", description="how brokers are spoken to, in Kafka's words")
    kafka_ca: Path | None = Field(None, description="PEM file of the authorities that sign the brokers' certificates; by default this machine's")
    kafka_cert: Path | None = Field(None, description="PEM file of our certificate, where the brokers ask for one (mTLS)")
    kafka_cert_key: Path | None = Field(None, description="PEM file of its key")
    kafka_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256"] = Field("SCRAM-SHA-512", description="how the password is proved under SASL")
    kafka_user: str = Field("", description="our name under SASL")
    kafka_password: str = Field("", repr=False, description="its password")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["text", "json"] = Field("text", description="one event a line, as text or as JSON")
    url: str = Field("http://127.0.0.1:8420", description="where the command line finds a running Trimtab")
    key: str = Field("", repr=False, description="the command line's API key; by default the one kept in the data folder")

    def with_database(self) -> Settings:
        """Raises Misconfigured where services on Kafka would keep their data in a file that none of them reads."""
        if self.kafka and not self.database:
            raise Misconfigured("TRIMTAB_KAFKA is set and TRIMTAB_DATABASE is not: set it to the services' PostgreSQL, or unset TRIMTAB_KAFKA")
        return self

    @property
    def secrets_by_workspace(self) -> dict[str, dict[str, list[str]]]:
        """workspace -> source -> active signing secrets; a source that no workspace is named for is of `workspace`."""
        found: dict[str, dict[str, list[str]]] = {}
        for name, given in self.webhook_secrets.items():
            here = found.setdefault(self.workspace if isinstance(given, list) else name, {})
            here |= {name: given} if isinstance(given, list) else given
        return found

    @property
    def checkpoints_folder(self) -> Path:
        return Path(self.checkpoints) if self.checkpoints else self.data / "checkpoints"

    @property
    def archive_folder(self) -> Path:
        return Path(self.archive) if self.archive else self.data / "archive"

    @property
    def daily_checkpoints(self) -> str:
        """Where the archive of these topics keeps a checkpoint of each day."""
        return f"{self.archive.rstrip('/')}/{self.kafka_prefix}{DAILY}"

    @property
    def database_address(self) -> str:
        return self.database or f"sqlite:///{self.data / 'trimtab.db'}"

    @property
    def _in_address(self) -> str:
        return self.database.partition("://")[2].rpartition("@")[0].partition(":")[2]

    def secrets(self) -> tuple[str, ...]:
        """Every value that must never be shown."""
        webhooks = (s for sources in self.secrets_by_workspace.values() for many in sources.values() for s in many)
        options = (s for many in self.executors.values() for name, s in many.items() if name != "url")
        own = (self.sandbox_token, self.key, self.secret, self.kafka_password, self.database_password, self._in_address, self.checkpoints_secret_key)
        return tuple(s for s in (*own, *webhooks, *options) if s)


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Raises Misconfigured listing every variable that is unknown or wrong."""
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    values: dict[str, Any] = {}
    faults: list[str] = []
    for variable in sorted(v for v in environment if v.startswith(PREFIX) and v not in OTHERS):
        base = variable.removesuffix("_FILE")
        name = known.get(variable) or known.get(base)
        if name is None:
            near = difflib.get_close_matches(variable, known, 1)
            faults.append(f"{variable} is not a setting" + (f"; did you mean {near[0]}?" if near else ""))
        elif variable in known:
            values[name] = environment[variable]
        elif base in environment:
            faults.append(f"{base} and {variable} are both set; keep one")
        else:
            try:
                values[name] = Path(environment[variable]).read_text().strip()
            except OSError as error:
                faults.append(f"{variable}={environment[variable]} cannot be read: {error.strerror}")
    try:
        settings = Settings(**values)
    except ValidationError as error:
        faults += [f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']} ({Settings.model_fields[str(e['loc'][0])].description})" for e in error.errors()]
    else:
        faults += at_odds(settings) + bucket_faults(settings) + archive_faults(settings) + database_faults(settings) + addresses(settings)
    if faults:
        raise Misconfigured("; ".join(faults))
    return settings


def at_odds(settings: Settings) -> list[str]:
    """What of the settings of Kafka and of a simulated clock does not go together."""
    given = {name for name in settings.model_fields_set if name.startswith("kafka_") and getattr(settings, name) != Settings.model_fields[name].default}
    if not settings.kafka:
        given |= {"clock"} if settings.clock else set()
        return [f"{PREFIX}{name.upper()} says nothing without {PREFIX}KAFKA, the brokers' addresses" for name in sorted(given)]
    if settings.clock and settings.executors:
        return [f"{PREFIX}CLOCK and {PREFIX}EXECUTORS do not go together: on a simulated clock nothing real is acted on"]
    faults = [f"{PREFIX}KAFKA={address} is no address: write host:port" for address in settings.kafka.split(",") if not is_address(address)]
    tls, sasl = settings.kafka_security.endswith("SSL"), settings.kafka_security.startswith("SASL")
    files = [name for name in ("kafka_ca", "kafka_cert", "kafka_cert_key") if name in given and not tls]
    faults += [f"{PREFIX}{name.upper()} says nothing under {PREFIX}KAFKA_SECURITY={settings.kafka_security}: set SSL or SASL_SSL" for name in files]
    if (settings.kafka_cert is None) != (settings.kafka_cert_key is None):
        faults.append(f"{PREFIX}KAFKA_CERT and {PREFIX}KAFKA_CERT_KEY go together: a certificate and its key")
    for name in ("kafka_user", "kafka_password"):
        if sasl and not getattr(settings, name):
            faults.append(f"{PREFIX}KAFKA_SECURITY={settings.kafka_security} needs {PREFIX}{name.upper()}")
        if not sasl and name in given:
            faults.append(f"{PREFIX}{name.upper()} says nothing under {PREFIX}KAFKA_SECURITY={settings.kafka_security}: set SASL_SSL")
    return faults


def bucket_faults(settings: Settings) -> list[str]:
    """What of the settings of checkpoints and archive does not go together."""
    faults, buckets = [], 0
    for name in ("checkpoints", "archive"):
        scheme, there, rest = getattr(settings, name).partition("://")
        buckets += bool(there)
        if there and (scheme != "s3" or not rest.partition("/")[0] or set(rest) & set(" ?#@")):
            faults.append(f"{PREFIX}{name.upper()}={getattr(settings, name)} is neither a folder nor a bucket: write s3://BUCKET/PREFIX")
        elif there and name == "archive" and not settings.kafka:
            faults.append(f"{PREFIX}ARCHIVE={settings.archive} is for the topics of {PREFIX}KAFKA: the log in a data folder has its archive in a folder")
    if not buckets:
        given = [n for n in ("checkpoints_endpoint", "checkpoints_key_id", "checkpoints_secret_key") if getattr(settings, n)]
        return [f"{PREFIX}{name.upper()} says nothing without {PREFIX}CHECKPOINTS=s3://BUCKET/PREFIX, or {PREFIX}ARCHIVE such a one" for name in given]
    if settings.checkpoints_endpoint and settings.checkpoints_endpoint.partition("://")[0] not in ("http", "https"):
        faults.append(f"{PREFIX}CHECKPOINTS_ENDPOINT={settings.checkpoints_endpoint} is no address: write https://HOST[:PORT]")
    if bool(settings.checkpoints_key_id) != bool(settings.checkpoints_secret_key):
        faults.append(f"{PREFIX}CHECKPOINTS_KEY_ID and {PREFIX}CHECKPOINTS_SECRET_KEY go together: an access key's id and its secret")
    return faults


def archive_faults(settings: Settings) -> list[str]:
    """By what settings the archive of Kafka's topics would lose what it promises."""
    if not (settings.kafka and settings.archive):
        return []
    faults, hours = [], settings.log_segment_hours
    where, _, name = _settled(settings.checkpoints).rpartition("/")
    if settings.checkpoints and where == _settled(settings.archive) and name.endswith(DAILY):
        faults.append(
            f"{PREFIX}CHECKPOINTS={settings.checkpoints} is where {PREFIX}ARCHIVE={settings.archive} keeps a checkpoint of each day for {PREFIX}AUDIT_DAYS, "
            "and the engine would tidy them away: name another place for its own"
        )
    if 0 < settings.kafka_retention_days < hours / 24 + SPARE:
        faults.append(
            f"{PREFIX}KAFKA_RETENTION_DAYS={settings.kafka_retention_days:g} lets Kafka delete what is not archived yet, since {PREFIX}ARCHIVE gets a segment "
            f"once it is {PREFIX}LOG_SEGMENT_HOURS={hours:g} old: keep records for {ceil(hours / 24 + SPARE)} days at least"
        )
    return faults


def _settled(place: str) -> str:
    """One text for one place, however it is written."""
    scheme, there, rest = place.partition("://")
    return f"{scheme}://{'/'.join(filter(None, rest.split('/')))}" if there else str(Path(place).resolve())


def database_faults(settings: Settings) -> list[str]:
    """What of the database's address cannot be, before anybody is asked."""
    if not settings.database:
        return [f"{PREFIX}DATABASE_PASSWORD says nothing without {PREFIX}DATABASE"] if settings.database_password else []
    from services.adapters.db.address import parse, without_tls  # SQLAlchemy, which most commands do without

    try:
        without_tls(parse(settings.database, settings.database_password))
    except Misconfigured as error:
        return [f"{PREFIX}DATABASE: {error}"]
    return []


def addresses(settings: Settings) -> list[str]:
    """Which of the processes' own addresses are none."""
    given = {name: getattr(settings, name).rstrip("/") for name in ("advertise", "ingest_url", "rules_url", "actions_url")}
    return [
        f"{PREFIX}{name.upper()}={url} is no address: write http://HOST:PORT"
        for name, url in given.items()
        if url and not (url.partition("://")[0] in ("http", "https") and is_address(url.partition("://")[2]))
    ]


def is_address(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    return bool(host and colon and port.isdecimal() and 0 < int(port) < 65536) and not set(host) & set(" /,@")
