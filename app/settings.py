"""Settings: environment variables with the prefix ``APP_``, or flags of ``camserve serve``."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

CommaList = Annotated[tuple[str, ...], NoDecode]
EMBEDDED = ("shapes", "lesion", "lesion-shortcut")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="APP_", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes a free one")
    models_dir: Path = Field(Path("models"), description="folder of the model manifests")
    models: CommaList = Field(
        EMBEDDED, min_length=1, description="models to load at start, a comma list"
    )
    default_model: str | None = Field(
        None, description="used where a request names none; the first"
    )
    devices: CommaList = Field(
        ("auto",), min_length=1, description="a worker for each: auto, cpu, cuda:0, …"
    )
    http_processes: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        "auto",
        description="processes that read, decode and render; auto: three for four cores where there"
        " is a GPU, else one",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="of the trunks; auto is fp32 everywhere; a manifest's own wins"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="on a CPU, trunks are compiled while they serve; auto: where OpenVINO is"
        " installed, on: it must be",
    )
    allow_factories: bool = Field(
        default=False, description="models may be built by Python files of the models folder"
    )
    max_batch_size: int = Field(
        16, ge=1, le=1024, description="pictures of a batch; on a CPU, of all batches in progress"
    )
    max_wait_ms: float = Field(
        0, ge=0, le=1000, description="wait for company before a batch starts"
    )
    max_queue: int = Field(
        256, ge=1, description="requests in progress per http process; above: 429"
    )
    max_maps: int = Field(16, ge=1, le=1000, description="maps that one request may ask for")
    max_picture_pixels: int = Field(
        50_000_000, ge=1, description="pixels of all pictures that one request may ask for"
    )
    deadline_s: float = Field(
        10, gt=0, description="a request is answered within this, or gets 504"
    )
    slow_deadline_s: float = Field(
        120, gt=0, description="the same for requests with a method of many passes"
    )
    max_budget: int = Field(
        4096, ge=1, description="rows that one request may pass through a model"
    )
    hang_s: float = Field(60, gt=0, description="a worker stuck or silent for so long is replaced")
    receive_timeout_s: float = Field(
        15, gt=0, description="a request's body is here by then, or 408"
    )
    max_body_bytes: int = Field(20_000_000, ge=1, description="largest image file")
    max_held_bytes: int = Field(
        64_000_000, ge=1, description="of uploads in progress per http process; above, they wait"
    )
    max_pixels: int = Field(50_000_000, ge=1, description="largest image, width x height")
    cache_mb: int = Field(
        0, ge=0, description="megabytes of answers kept per http process; 0 keeps none"
    )
    api_keys_file: Path | None = Field(None, description="a file of API keys, one a line")
    cors_origins: CommaList = Field(("*",), description="origins that browsers may call from")
    drain_delay_s: float = Field(8, ge=0, description="SIGTERM: still accepting, /readyz at 503")
    grace_s: float = Field(30, ge=0, description="SIGTERM: then time for the requests in flight")
    log_format: Literal["text", "json"] = Field("text", description="how log lines look")

    @field_validator("models", "devices", "cors_origins", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        """Flags arrive as lists of comma lists, variables as one comma list."""
        parts = [value] if isinstance(value, str) else value
        if isinstance(parts, list | tuple):
            return tuple(p.strip() for part in parts for p in str(part).split(",") if p.strip())
        return value

    @property
    def start_model(self) -> str:
        """The model of a request that names none."""
        return self.default_model or self.models[0]


def admin_token() -> str | None:
    """``APP_ADMIN_TOKEN``, which lets its bearer load and unload models.

    No field of ``Settings``: those are flags, which the list of processes shows to everybody, and
    travel from process to process.
    """
    return os.environ.get("APP_ADMIN_TOKEN", "").strip() or None
