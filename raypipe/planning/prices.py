"""What machines cost and hold, from a dated yaml that its user may edit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pydantic
from pydantic import Field

from raypipe.errors import RequestError
from raypipe.settings.base import Settings, build, read_yaml

FILE = Path("cluster") / "prices.yaml"


class Machine(Settings):
    """One kind of machine; None: it is not known, which is never 0."""

    usd_per_hour: float | None = Field(None, gt=0, allow_inf_nan=False)
    cpus: float | None = Field(None, gt=0, allow_inf_nan=False)
    memory_gib: float | None = Field(None, gt=0, allow_inf_nan=False)
    gpus: int = Field(0, ge=0)
    gpu: str | None = None


class Prices(Settings):
    """A table of prices, where it is from and of which day it is."""

    as_of: date
    region: str = ""
    terms: str = ""
    source: str = ""
    currency: str = "USD"
    machines: dict[str, Machine]

    @pydantic.field_validator("currency")
    @classmethod
    def _dollars(cls, value: str) -> str:
        if value != "USD":
            raise ValueError("prices are in USD")
        return value


@dataclass(frozen=True)
class PriceFile:
    """The table that a plan reckons with, and its file; none is known where there is no file."""

    path: str
    prices: Prices | None

    def machine(self, name: str | None) -> Machine | None:
        return None if self.prices is None or name is None else self.prices.machines.get(name)

    def said(self) -> str:
        if self.prices is None:
            return "no prices.yaml: no cost is known"
        return f"{self.path} of {self.prices.as_of}" + (
            f", {self.prices.region}" if self.prices.region else ""
        )


def read_prices(path: str | None) -> PriceFile:
    """The prices of a named file, of ./cluster/prices.yaml, or of the one beside the package.

    Raises:
        RequestError: no such file, or it holds something else.
    """
    if path is not None:
        file = Path(path).expanduser()
        return PriceFile(str(file), build(Prices, read_yaml(file), str(file)))
    for file in (FILE, Path(__file__).parents[2] / FILE):
        if file.is_file():
            try:
                return PriceFile(str(FILE), build(Prices, read_yaml(file), str(file)))
            except RequestError as fault:
                raise RequestError(
                    fault.message, fault.remedy or "or name another file: prices=FILE"
                ) from None
    return PriceFile(str(FILE), None)
