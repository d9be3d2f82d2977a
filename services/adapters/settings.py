"""Settings come from the environment, are read once and passed down frozen; what is wrong is listed whole, and nothing starts.

Every variable begins with TRIMTAB_; any may instead be given as NAME_FILE, the path of a file that holds the value (for secrets).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

from services.kernel.errors import Misconfigured

PREFIX = "TRIMTAB_"
OTHERS = {"TRIMTAB_REQUIRE", "TRIMTAB_TEST_DATA"}  # read by the tests


class Settings(BaseModel):
    """One field per variable: TRIMTAB_DATA is `data`. The description is the variable's documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    data: Path = Field(Path("var"), description="folder of the log, the database and the keys")
    host: Literal["127.0.0.1", "::1", "localhost"] = Field("127.0.0.1", description="address to listen on; embedded mode listens on loopback only")
    port: int = Field(8420, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    workspace: str = Field("main", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="the workspace that embedded mode serves")
    actions: Literal["execute", "hold"] = Field("execute", description="hold parks every action instead of executing it")
    linger_ms: float = Field(2, ge=0, le=10, description="how long a group commit waits for company, in milliseconds")
    checkpoint_seconds: float = Field(300, gt=0, description="a checkpoint of the engine's state is due after so many seconds, if any record came")
    checkpoint_records: int = Field(200_000, ge=1, description="or after so many records, whichever is first")
    max_body_bytes: int = Field(5_000_000, ge=1_000, le=100_000_000, description="largest request body")
    sandbox_url: str = Field("", description="address of the sandbox ad platform, where one is used")
    sandbox_token: str = Field("", repr=False, description="its bearer token")
    executors: Json[dict[str, dict[str, str]]] | dict[str, dict[str, str]] = Field(
        default_factory=dict, repr=False, description='platforms to act on, as JSON: {"house_ads": {"url": "https://...", "token": "..."}}'
    )
    webhook_secrets: Json[dict[str, list[str]]] | dict[str, list[str]] = Field(
        default_factory=dict, repr=False, description='active signing secrets by source, as JSON: {"sandbox": ["whsec_..."]}'
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["text", "json"] = Field("text", description="one event a line, as text or as JSON")
    url: str = Field("http://127.0.0.1:8420", description="where the command line finds a running Trimtab")
    key: str = Field("", repr=False, description="the command line's API key; by default the one kept in the data folder")

    def secrets(self) -> tuple[str, ...]:
        """Every value that must never be shown."""
        webhooks = (s for many in self.webhook_secrets.values() for s in many)
        options = (s for many in self.executors.values() for name, s in many.items() if name != "url")
        return tuple(s for s in (self.sandbox_token, self.key, *webhooks, *options) if s)


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
    if faults:
        raise Misconfigured("; ".join(faults))
    return settings
