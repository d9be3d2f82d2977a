"""Settings: everything that is wrong is said at once, and nothing starts."""

from pathlib import Path

import pytest

from services.adapters.db.database import AGAIN, ANSWERS, SETTLES
from services.adapters.settings import Settings, from_environment
from services.kernel.errors import Misconfigured


def test_nothing_set_is_a_working_embedded_mode() -> None:
    assert from_environment({"HOME": "/root"}) == Settings()


def test_every_wrong_or_unknown_variable_is_listed_with_its_remedy() -> None:
    with pytest.raises(Misconfigured) as refused:
        from_environment({"TRIMTAB_PORT": "seventy", "TRIMTAB_ACTION": "hold", "TRIMTAB_HOST": "all of them"})
    text = str(refused.value)
    assert "TRIMTAB_ACTION is not a setting; did you mean TRIMTAB_ACTIONS?" in text
    assert "TRIMTAB_PORT" in text and "valid integer" in text
    assert "TRIMTAB_HOST" in text and "loopback" in text


def test_what_a_database_that_is_away_may_cost_in_one_step_is_no_stalled_loop() -> None:
    longest = (AGAIN + 1) * ANSWERS + SETTLES + ANSWERS  # each try waits for an answer, the last for whether it was committed
    with pytest.raises(Misconfigured, match="TRIMTAB_STALLED_SECONDS"):
        from_environment({"TRIMTAB_STALLED_SECONDS": str(longest)})
    assert from_environment({"TRIMTAB_STALLED_SECONDS": "420"}).stalled_seconds == 420


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


def test_webhook_secrets_may_name_workspaces() -> None:
    given = from_environment({"TRIMTAB_WEBHOOK_SECRETS": '{"sandbox": ["whsec_a"], "shop": {"sandbox": ["whsec_b"], "web": ["whsec_c"]}}'})
    assert given.secrets_by_workspace == {"main": {"sandbox": ["whsec_a"]}, "shop": {"sandbox": ["whsec_b"], "web": ["whsec_c"]}}
    assert {"whsec_a", "whsec_b", "whsec_c"} <= set(given.secrets())


def test_webhook_secrets_are_json() -> None:
    assert from_environment({"TRIMTAB_WEBHOOK_SECRETS": '{"sandbox": ["whsec_a", "whsec_b"]}'}).webhook_secrets == {"sandbox": ["whsec_a", "whsec_b"]}
    with pytest.raises(Misconfigured, match="TRIMTAB_WEBHOOK_SECRETS"):
        from_environment({"TRIMTAB_WEBHOOK_SECRETS": "whsec_a"})


KAFKA = {"TRIMTAB_KAFKA": "kafka:9092"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"TRIMTAB_KAFKA": "kafka"}, "TRIMTAB_KAFKA=kafka is no address: write host:port"),
        ({"TRIMTAB_KAFKA": "a:1,b:99999"}, "TRIMTAB_KAFKA=b:99999 is no address"),
        ({"TRIMTAB_KAFKA_USER": "me"}, "TRIMTAB_KAFKA_USER says nothing without TRIMTAB_KAFKA"),
        (KAFKA | {"TRIMTAB_KAFKA_SECURITY": "TLS"}, "TRIMTAB_KAFKA_SECURITY: Input should be 'PLAINTEXT', 'SSL'"),
        (KAFKA | {"TRIMTAB_KAFKA_CA": "ca.pem"}, "TRIMTAB_KAFKA_CA says nothing under TRIMTAB_KAFKA_SECURITY=PLAINTEXT: set SSL or SASL_SSL"),
        (KAFKA | {"TRIMTAB_KAFKA_SECURITY": "SSL", "TRIMTAB_KAFKA_CERT": "me.pem"}, "TRIMTAB_KAFKA_CERT and TRIMTAB_KAFKA_CERT_KEY go together"),
        (KAFKA | {"TRIMTAB_KAFKA_SECURITY": "SASL_SSL", "TRIMTAB_KAFKA_USER": "me"}, "TRIMTAB_KAFKA_SECURITY=SASL_SSL needs TRIMTAB_KAFKA_PASSWORD"),
        (KAFKA | {"TRIMTAB_KAFKA_PASSWORD": "secret"}, "TRIMTAB_KAFKA_PASSWORD says nothing under TRIMTAB_KAFKA_SECURITY=PLAINTEXT"),
        (KAFKA | {"TRIMTAB_KAFKA_BROKERS": "x"}, "TRIMTAB_KAFKA_BROKERS is not a setting"),
    ],
)
def test_settings_of_kafka_that_are_wrong_or_do_not_go_together_stop_the_start(given: dict[str, str], said: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        from_environment(given)
    assert said in str(refused.value) and "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_kafkas_password_is_a_secret() -> None:
    settings = from_environment(KAFKA | {"TRIMTAB_KAFKA_SECURITY": "SASL_SSL", "TRIMTAB_KAFKA_USER": "me", "TRIMTAB_KAFKA_PASSWORD": "s3cret-enough"})
    assert "s3cret-enough" in settings.secrets() and "s3cret-enough" not in repr(settings)


DATABASE = {"TRIMTAB_DATABASE": "postgresql+asyncpg://trimtab@localhost/trimtab"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"TRIMTAB_DATABASE": "mysql://a@localhost/b"}, "databases of kind 'mysql' are not supported: use sqlite:///FILE or postgresql+asyncpg://"),
        ({"TRIMTAB_DATABASE": "postgresql+psycopg://a@localhost/b"}, "databases of kind 'postgresql+psycopg' are not supported"),
        ({"TRIMTAB_DATABASE": "postgresql://localhost/b"}, "the database address names no user"),
        ({"TRIMTAB_DATABASE": "postgresql://a@localhost"}, "the database address names no database"),
        ({"TRIMTAB_DATABASE": "postgresql://a@db.example.org/b"}, "on another machine, db.example.org: say ?sslmode=verify-full"),
        ({"TRIMTAB_DATABASE": "postgresql://a@localhost/b?sslmode=prefer"}, "sslmode=prefer of the database address is not one of disable, require"),
        ({"TRIMTAB_DATABASE": "postgresql://a@localhost/b?sslrootcert=x"}, "sslrootcert of the database address says nothing without sslmode"),
        ({"TRIMTAB_DATABASE": "postgresql://a@localhost/b?sslmode=verify-full&sslrootcert=/no/ca.pem"}, "sslrootcert=/no/ca.pem of the database address"),
        ({"TRIMTAB_DATABASE": "postgresql://a@localhost/b?statement_timeout=1"}, "says statement_timeout, which is not known"),
        ({"TRIMTAB_DATABASE": "postgresql://a:secret@localhost/b", "TRIMTAB_DATABASE_PASSWORD": "secret"}, "keep one"),
        ({"TRIMTAB_DATABASE": "sqlite:////tmp/x.db", "TRIMTAB_DATABASE_PASSWORD": "secret"}, "a SQLite database has no password"),
        ({"TRIMTAB_DATABASE_PASSWORD": "secret"}, "TRIMTAB_DATABASE_PASSWORD says nothing without TRIMTAB_DATABASE"),
        (DATABASE | {"TRIMTAB_DATABASE_PASSWORD_FILE": "/no/such"}, "TRIMTAB_DATABASE_PASSWORD_FILE=/no/such cannot be read"),
    ],
)
def test_settings_of_the_database_that_are_wrong_stop_the_start(given: dict[str, str], said: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        from_environment(given)
    assert said in str(refused.value) and "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_databases_password_is_a_secret_wherever_it_stands(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret-enough\n")
    by_file = from_environment(DATABASE | {"TRIMTAB_DATABASE_PASSWORD_FILE": str(tmp_path / "password")})
    assert by_file.secrets() == ("s3cret-enough",) and "s3cret-enough" not in repr(by_file)
    assert from_environment({"TRIMTAB_DATABASE": "postgresql://a:s3cret-enough@localhost/b"}).secrets() == ("s3cret-enough",)
