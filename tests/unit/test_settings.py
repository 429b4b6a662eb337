"""Every setting once, with a description; what cannot be used is named, with the rule."""

import os
from pathlib import Path

import pytest

from shared.handler_profile import HandlerProfile
from shared.lifecycle import Policy
from shared.settings import BadSettings, Settings, read_settings


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("RINGONCE_") or name == "REDIS_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_has_a_description_that_is_a_sentence(name: str):
    description = Settings.model_fields[name].description
    assert description
    assert description.endswith(".")


def test_without_an_environment_everything_has_a_usable_value():
    settings = read_settings()
    assert settings.redis_url is None
    assert settings.profile == HandlerProfile()
    assert settings.policy == Policy()


def test_settings_come_from_the_environment_with_our_prefix(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RINGONCE_MAX_JOBS", "7")
    monkeypatch.setenv("MAX_JOBS", "8")
    monkeypatch.setenv("RINGONCE_CALL_HANDLER_URL", "http://handler.example:9000")
    monkeypatch.setenv("RINGONCE_HANDLER_HONOURS_KEY", "true")
    settings = read_settings()
    assert settings.max_jobs == 7
    assert str(settings.profile.url) == "http://handler.example:9000/"
    assert settings.profile.honours_idempotency_key


def test_settings_come_from_a_file_too_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / ".env").write_text("RINGONCE_MAX_JOBS=7\nRINGONCE_SWEEP_S=2\n")
    monkeypatch.setenv("RINGONCE_MAX_JOBS", "9")
    settings = read_settings()
    assert (settings.max_jobs, settings.sweep_s) == (9, 2)


def test_the_store_is_also_found_under_the_name_most_platforms_set(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("REDIS_URL", "redis://platform:6379/0")
    assert read_settings().redis_url == "redis://platform:6379/0"
    monkeypatch.setenv("RINGONCE_REDIS_URL", "redis://ours:6379/0")
    assert read_settings().redis_url == "redis://ours:6379/0"
    assert Settings(redis_url="redis://given:6379/0").redis_url == "redis://given:6379/0"


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("MAX_JOBS", "0", "greater than 0"),
        ("MAX_JOBS", "many", "valid integer"),
        ("MAX_ATTEMPTS", "-1", "greater than 0"),
        ("PORT", "65536", "less than 65536"),
        ("SWEEP_S", "0", "greater than 0"),
        ("SWEEP_S", "nan", "less than or equal to 86400"),
        ("CONNECT_TIMEOUT_S", "61", "less than or equal to 60"),
        ("READ_TIMEOUT_S", "601", "less than or equal to 600"),
        ("ORDER_LIFETIME_S", "86401", "less than or equal to 86400"),
        ("CALL_HANDLER_URL", "ftp://handler", "scheme"),
        ("CALL_HANDLER_URL", "handler", "valid URL"),
        ("DEFAULT_REGION", "Germany", "match pattern"),
        ("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO'"),
        ("HANDLER_HONOURS_KEY", "perhaps", "valid boolean"),
    ],
)
def test_a_bad_value_is_named_with_its_rule(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, rule: str
):
    monkeypatch.setenv(f"RINGONCE_{name}", value)
    with pytest.raises(BadSettings) as refused:
        read_settings()
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"RINGONCE_{name}: ")
    assert rule in line


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RINGONCE_PORT", "0")
    monkeypatch.setenv("RINGONCE_MAX_JOBS", "0")
    with pytest.raises(BadSettings) as refused:
        read_settings()
    named = {line.partition(":")[0] for line in str(refused.value).splitlines()}
    assert named == {"RINGONCE_PORT", "RINGONCE_MAX_JOBS"}


def test_whatever_the_settings_take_the_handler_profile_takes():
    """Else a worker that read its settings without complaint would break on using them."""
    for field, theirs in HandlerProfile.model_fields.items():
        if field in Settings.model_fields:
            ours = {repr(bound) for bound in Settings.model_fields[field].metadata}
            missing = {repr(bound) for bound in theirs.metadata} - ours
            assert not missing, field


def test_a_stray_variable_of_ours_breaks_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RINGONCE_FROM_ANOTHER_VERSION", "1")
    read_settings()


def test_a_password_in_the_address_is_not_repeated_in_a_complaint(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("REDIS_URL", "redis://:hunter2@store:6379/0")
    monkeypatch.setenv("RINGONCE_PORT", "0")
    with pytest.raises(BadSettings) as refused:
        read_settings()
    assert "hunter2" not in str(refused.value)
