"""The web pages for marketing ops, reviewers and auditors: a client of the APIs, with no logic of its own."""

from services.console.app import install
from services.console.client import Client, Refused

__all__ = ["Client", "Refused", "install"]
