"""The one place that takes secrets out of what is shown, logged or stored.

Secrets reach this package through the environment only: inside a tracking URI (``http://user:password@host``,
``postgresql://user:password@host/db``) or as a variable of their own. ``redacted`` strips both, and what looks like
them in a text that came from elsewhere, such as a trial's traceback.
"""

import logging
import os
import re
import traceback
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
SECRET_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "DATABRICKS_TOKEN",
    "DATABRICKS_CLIENT_SECRET",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
URI_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_BACKEND_STORE_URI")
# Shorter ones are hidden inside URIs alone: a star in place of every "a" of a text would tell what they are.
_SHORTEST_SECRET = 4
_ACCOUNT = re.compile(r"(?P<user>[^:/@]*):(?P<password>.*)@", re.DOTALL)
_IN_URI = re.compile(r"(?<=://)[^/\s?#'\"<>]*@")
_IN_QUERY = re.compile(r"(?i)\b((?:ssl)?(?:password|passwd|pwd|token|secret|api_key)=)[^&\s'\",;]+")


def redacted(text: str) -> str:
    """Return the text without credentials: cut out of URIs, stars where a secret stands alone."""
    for account in _accounts():
        text = text.replace(f"://{account}@", "://")
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return _IN_QUERY.sub(rf"\1{HIDDEN}", _IN_URI.sub("", text))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind where there is none; without secrets."""
    return redacted((str(error).splitlines() or [type(error).__name__])[0])[:300]


class RedactingFilter(logging.Filter):
    """Takes secrets out of what other libraries log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record's text; every record passes."""
        record.msg, record.args = redacted(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
        return True


def _accounts() -> Iterator[str]:
    """Yield ``user:password`` of the URIs in the environment, also where the password holds a slash."""
    for name in URI_VARIABLES:
        found = _ACCOUNT.match(os.environ.get(name, "").partition("://")[2])
        if found is not None:
            yield found[0].removesuffix("@")


def _secrets() -> list[str]:
    """Return what must not stand anywhere, in every form in which it is written; the longest first."""
    found = {os.environ[name] for name in SECRET_VARIABLES if os.environ.get(name)}
    found |= {account.partition(":")[2] for account in _accounts()}
    forms = {form(secret) for secret in found for form in (str, quote, quote_plus, unquote)}
    return sorted((secret for secret in forms if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True)
