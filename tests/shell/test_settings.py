"""Settings: everything that is wrong is said at once, and nothing starts."""

from pathlib import Path

import pytest

from services.adapters.settings import Settings, from_environment
from services.kernel.errors import Misconfigured


def test_nothing_set_is_a_working_embedded_mode() -> None:
    assert from_environment({"HOME": "/root"}) == Settings()


def test_every_wrong_or_unknown_variable_is_listed_with_its_remedy() -> None:
    with pytest.raises(Misconfigured) as refused:
        from_environment({"TRIMTAB_PORT": "seventy", "TRIMTAB_ACTION": "hold", "TRIMTAB_HOST": "0.0.0.0"})
    text = str(refused.value)
    assert "TRIMTAB_ACTION is not a setting; did you mean TRIMTAB_ACTIONS?" in text
    assert "TRIMTAB_PORT" in text and "valid integer" in text
    assert "TRIMTAB_HOST" in text and "loopback" in text


def test_a_secret_comes_from_a_file_and_is_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    settings = from_environment({"TRIMTAB_SANDBOX_TOKEN_FILE": str(secret)})
    assert settings.sandbox_token == "s3cret"
    assert "s3cret" not in repr(settings)


def test_a_value_given_twice_and_a_file_that_is_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="both set"):
        from_environment({"TRIMTAB_KEY": "a", "TRIMTAB_KEY_FILE": "b"})
    with pytest.raises(Misconfigured, match="cannot be read"):
        from_environment({"TRIMTAB_KEY_FILE": str(tmp_path / "none")})


def test_webhook_secrets_are_json() -> None:
    assert from_environment({"TRIMTAB_WEBHOOK_SECRETS": '{"sandbox": ["whsec_a", "whsec_b"]}'}).webhook_secrets == {"sandbox": ["whsec_a", "whsec_b"]}
    with pytest.raises(Misconfigured, match="TRIMTAB_WEBHOOK_SECRETS"):
        from_environment({"TRIMTAB_WEBHOOK_SECRETS": "whsec_a"})
