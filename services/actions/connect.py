"""Executors by name: what the operator names in TRIMTAB_EXECUTORS is found in the folder or among the entry points, and connected with its options."""

from __future__ import annotations

from collections.abc import Mapping

from services.actions import executors as folder
from services.actions.executors.contract import Executor
from services.actions.executors.sandbox import Platform as SandboxPlatform
from services.adapters.settings import Settings
from services.kernel.errors import Misconfigured
from services.kernel.extension import found


def executors_of(settings: Settings) -> list[Executor]:
    """Those that the settings name; the sandbox's has settings of its own."""
    practice = [SandboxPlatform(settings.sandbox_url, settings.sandbox_token)] if settings.sandbox_url else []
    return [*practice, *connect(settings.executors)]


def connect(wanted: Mapping[str, Mapping[str, str]]) -> list[Executor]:
    """One executor for each name. Raises Misconfigured where there is none of this name, or its options are not those it takes."""
    known = found(folder, "executor", "Platform")
    connected: list[Executor] = []
    for name, options in sorted(wanted.items()):
        if name not in known:
            raise Misconfigured(f"TRIMTAB_EXECUTORS names {name!r}, which is no executor; there are {', '.join(known)}")
        try:
            connected.append(known[name](**options))
        except TypeError as error:
            raise Misconfigured(f"TRIMTAB_EXECUTORS: {name}: {error}") from None
    return connected
