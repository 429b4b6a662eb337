"""Every setting, once. The environment is read here and nowhere else.

Each is read from `RINGONCE_<NAME>`, or from a `.env` file in the working directory. The store's
address is also read from plain `REDIS_URL`, which most platforms set by themselves. Times are
seconds. The table in the README is made from the descriptions below.
"""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AliasChoices, Field, HttpUrl, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.handler_profile import HandlerProfile, Lookup, read_profile
from shared.lifecycle import Policy
from shared.recovery import Retention

_PROFILE_SETTINGS: Final = {
    "call_handler_url": "url",
    "handler_honours_key": "honours_idempotency_key",
    "handler_answers_lookup": "lookup",
}
"""Settings that speak of a member of the profile under another name."""

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Durability = Literal["memory", "fsync"]


class Settings(BaseSettings):
    """What a deployment decides. Passed to whoever needs it, never global."""

    model_config = SettingsConfigDict(
        env_prefix="RINGONCE_",
        env_file=".env",
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    redis_url: Annotated[
        str | None,
        Field(
            validation_alias=AliasChoices("RINGONCE_REDIS_URL", "REDIS_URL", "redis_url"),
            description="The store, Redis ≥ 7 or Valkey. Unset: an embedded server in `data_dir`.",
        ),
    ] = None
    data_dir: Annotated[
        Path, Field(description="Where the embedded server and the conversations keep their files.")
    ] = Path(".ringonce")
    store_patience_s: Annotated[
        Seconds, Field(description="How long a Redis that is away is waited for.")
    ] = 12.0

    submit_durability: Annotated[
        Durability,
        Field(
            description="When an order counts as taken in: once the store has it (`memory`), or "
            "once it is on the store's disk (`fsync`: Redis ≥ 7.2 or Valkey, with an AOF)."
        ),
    ] = "memory"

    call_handler_url: Annotated[
        HttpUrl, Field(description="Your call handler; orders go to its `/order`.")
    ] = HttpUrl("http://127.0.0.1:8700")
    handler_profile: Annotated[
        Path | None,
        Field(description="A TOML file that says how it speaks (docs/HANDLERS.md)."),
    ] = None
    handler_secrets: Annotated[
        dict[str, SecretStr],
        Field(description="What `{secret:NAME}` stands for: `RINGONCE_HANDLER_SECRETS__NAME`."),
    ] = {}
    handler_honours_key: Annotated[
        bool, Field(description="It never rings twice for the same `Idempotency-Key`.")
    ] = False
    handler_answers_lookup: Annotated[
        bool, Field(description="Its `GET /order/{order_id}` says what became of an order.")
    ] = False
    connect_timeout_s: Annotated[
        float, Field(gt=0, le=60, description="How long connecting to the handler may take.")
    ] = 5.0
    read_timeout_s: Annotated[
        float,
        Field(
            gt=0,
            le=600,
            description="How long it may take to accept. Too short causes double calls.",
        ),
    ] = 90.0
    quiet_period_s: Annotated[
        Seconds,
        Field(description="How long after an unanswered request a lookup is believed."),
    ] = 120.0

    max_jobs: Annotated[
        int, Field(gt=0, le=10_000, description="How many orders one worker sends at once.")
    ] = 50
    max_attempts: Annotated[
        int, Field(gt=0, description="How often an order is tried before it is dead.")
    ] = 40
    backoff_base_s: Annotated[
        Seconds, Field(description="The first wait is at most this long; each next twice as long.")
    ] = 0.25
    backoff_cap_s: Annotated[Seconds, Field(description="No wait is longer.")] = 60.0
    lease_s: Annotated[
        float,
        Field(
            ge=2,
            le=86_400,
            description="How long an order is held by a worker that is not heard of any more. One "
            "that is at work on it renews its lease.",
        ),
    ] = 15.0
    sweep_s: Annotated[
        Seconds, Field(description="How often due orders are looked for without being woken.")
    ] = 2.0
    recover_s: Annotated[
        Seconds, Field(description="How often lost leases, doubts and lost jobs are looked for.")
    ] = 5.0

    keep_ended_s: Annotated[
        float,
        Field(gt=0, description="How long the details of an order that ended are kept: 30 days."),
    ] = 2_592_000.0
    keep_ended_max: Annotated[
        int, Field(ge=0, description="So many orders that ended keep their details, the newest.")
    ] = 100_000
    keep_ids_s: Annotated[
        float,
        Field(
            gt=0,
            description="How long after that, and after its deadline, an order's id is known and "
            "what became of it: 7 days. Until then it cannot be handed in anew.",
        ),
    ] = 604_800.0

    order_lifetime_s: Annotated[
        Seconds, Field(description="After this long a confirmed order is not called any more.")
    ] = 3600.0
    default_region: Annotated[
        str, Field(pattern="^[A-Z]{2}$", description="Country of numbers written without a code.")
    ] = "US"
    await_call_s: Annotated[
        Annotated[float, Field(ge=0, le=300)],
        Field(description="How long one turn of a conversation waits for the call to be placed."),
    ] = 20.0
    host: Annotated[str, Field(description="Where the servers listen.")] = "127.0.0.1"
    port: Annotated[int, Field(gt=0, lt=65536, description="The orchestrator's port.")] = 8600
    rehearsal_port: Annotated[
        int, Field(gt=0, lt=65536, description="The rehearsal handler's port.")
    ] = 8700

    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(description="How much is logged.")
    ] = "INFO"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Field(description="For people, for programs, or (`auto`) by whether it is a terminal."),
    ] = "auto"

    @cached_property
    def profile(self) -> HandlerProfile:
        """How the handler speaks and what it promises: the file's word, and over it the settings'.

        Raises:
            BadProfile: the file holds no profile.
        """
        said = {
            "url": self.call_handler_url,
            "honours_idempotency_key": self.handler_honours_key,
            "lookup": Lookup() if self.handler_answers_lookup else None,
            "connect_timeout_s": self.connect_timeout_s,
            "read_timeout_s": self.read_timeout_s,
            "quiet_period_s": self.quiet_period_s,
        }
        if self.handler_profile is None:
            return HandlerProfile.model_validate(said)
        by_hand = {_PROFILE_SETTINGS.get(name, name) for name in self.model_fields_set}
        chosen = {name: value for name, value in said.items() if name in by_hand}
        return read_profile(self.handler_profile).model_copy(update=chosen)

    @property
    def policy(self) -> Policy:
        """How patient the dispatcher is."""
        return Policy(
            max_attempts=self.max_attempts,
            backoff_base_s=self.backoff_base_s,
            backoff_cap_s=self.backoff_cap_s,
        )

    @property
    def retention(self) -> Retention:
        """How long what has ended is kept."""
        return Retention(self.keep_ended_s, self.keep_ended_max, self.keep_ids_s)


def environment_with(told: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that we start: this one's, and over it `told`."""
    return {**os.environ, **told}


class BadSettings(Exception):
    """The environment holds settings that cannot be used; the message names each and the rule."""


def read_settings() -> Settings:
    """Return the settings of this process.

    Raises:
        BadSettings: one or more are unusable.
    """
    try:
        return Settings()
    except ValidationError as error:
        faults = [
            f"RINGONCE_{'_'.join(map(str, fault['loc'])).upper() or 'SETTINGS'}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        ]
        raise BadSettings("\n".join(faults)) from None
