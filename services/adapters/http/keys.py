"""Who may make keys and login links, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel, Field

from services.adapters.http.auth import Auth, require
from services.kernel.errors import NotFound
from services.kernel.principal import Principal

Admin = Annotated[Principal, Depends(require("admin"))]


class LinkWanted(BaseModel):
    name: str = Field("you", max_length=100)
    role: Literal["viewer", "editor", "reviewer", "admin"] = "admin"


class KeyWanted(BaseModel):
    name: str = Field(max_length=100)
    role: Literal["source", "viewer", "editor", "reviewer", "admin"] = "source"


def install_keys(app: FastAPI, auth: Auth, url: Callable[[], str]) -> None:
    """POST /v1/login-links and what there is to do with keys exist; links lead to `url`."""
    routes = APIRouter()

    @routes.post("/v1/login-links", status_code=201, operation_id="make_login_link", summary="A one-time login for a person")
    async def login_link(body: LinkWanted, who: Admin) -> dict[str, str]:
        return {"link": await auth.login_link(body.name, body.role, who.workspace, url())}

    @routes.post("/v1/keys", status_code=201, operation_id="make_key", summary="A new API key; it is shown once")
    async def make_key(body: KeyWanted, who: Admin) -> dict[str, str]:
        return {"key": await auth.issue_key(body.name, body.role, who.workspace)}

    @routes.get("/v1/keys", operation_id="list_keys", summary="The workspace's API keys, never their secrets")
    async def list_keys(who: Admin) -> dict[str, Any]:
        return {"keys": await auth.keys(who.workspace)}

    @routes.post("/v1/keys/{key_id}/revoke", operation_id="revoke_key", summary="Takes a key back, within seconds everywhere")
    async def revoke_key(key_id: str, who: Admin) -> dict[str, Any]:
        if not await auth.revoke_key(key_id, who.workspace):
            raise NotFound(f"there is no key {key_id} in use: `trimtab keys` lists them")
        return {"revoked": key_id}

    app.include_router(routes)
