"""Who may make keys and login links, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel, Field

from services.adapters.http.auth import Auth, require
from services.kernel.principal import Principal

Admin = Annotated[Principal, Depends(require("admin"))]


class LinkWanted(BaseModel):
    name: str = Field("you", max_length=100)
    role: Literal["viewer", "editor", "reviewer", "admin"] = "admin"


class KeyWanted(BaseModel):
    name: str = Field(max_length=100)
    role: Literal["source", "viewer", "editor", "reviewer", "admin"] = "source"


def install_keys(app: FastAPI, auth: Auth, url: Callable[[], str]) -> None:
    """POST /v1/login-links and /v1/keys exist; links lead to `url`."""
    routes = APIRouter()

    @routes.post("/v1/login-links", status_code=201, operation_id="make_login_link", summary="A one-time login for a person")
    async def login_link(body: LinkWanted, who: Admin) -> dict[str, str]:
        return {"link": await auth.login_link(body.name, body.role, who.workspace, url())}

    @routes.post("/v1/keys", status_code=201, operation_id="make_key", summary="A new API key; it is shown once")
    async def make_key(body: KeyWanted, who: Admin) -> dict[str, str]:
        return {"key": await auth.issue_key(body.name, body.role, who.workspace)}

    app.include_router(routes)
