"""Online Retail, which ships with the package: 541,909 lines of a UK gift shop, 2010-12-01 .. 2011-12-09.

D. Chen (2015), UCI Machine Learning Repository, CC BY 4.0. See `online_retail_data/ATTRIBUTION.md`.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from habitus.data.calendar import Calendar, holiday_calendar
from habitus.data.log import EventLog
from habitus.data.schema import Schema

FOLDER = Path(__file__).parent / "online_retail_data"


def online_retail() -> EventLog:
    """Give the Online Retail log with its schema and a calendar of England's holidays.

    User = customer, session = invoice, item = stock code; types purchase, cancellation, other; amounts spend (GBP) and
    quantity. 135,080 lines have no customer and are rejected at ingest; 406,829 lines of 4,372 customers are kept.

    >>> online_retail().schema.time_zone
    'Europe/London'
    """
    return EventLog(Schema.read(FOLDER / "schema.toml"), FOLDER / "transactions.parquet", calendar=uk_calendar())


def uk_calendar() -> Calendar:
    """Give the bank holidays of England around the log, Christmas among them, known years ahead.

    >>> uk_calendar().types
    ('holiday',)
    """
    return holiday_calendar("GB", datetime.date(2010, 11, 1), datetime.date(2012, 3, 31), subdivision="ENG")
