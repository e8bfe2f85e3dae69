"""Session of requests that trusts what the rest of the machine trusts.

The certificates are those of REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE (requests reads them), or else of pip's `cert` for
pip's index, or else of SSL_CERT_FILE. Without any of these, they are the system's and certifi's.
"""

from __future__ import annotations

import os
import ssl
from functools import cached_property
from typing import Any

import requests
import truststore
from requests.adapters import HTTPAdapter

CERTIFICATES = (
    "Set REQUESTS_CA_BUNDLE= or SSL_CERT_FILE= to the certificates of this network, or add them to the system's"
)
SETTINGS = "Check REQUESTS_CA_BUNDLE=, SSL_CERT_FILE= and pip's cert (pip config list)"


def hint(error: OSError, otherwise: str) -> str:
    """Return the hint for the error of a request: on certificates, if these are its reason."""
    if isinstance(error, requests.exceptions.SSLError):
        return CERTIFICATES
    # For a file of certificates that is missing, requests raises a plain OSError.
    return otherwise if isinstance(error, requests.RequestException) else SETTINGS


class _Adapter(HTTPAdapter):
    @cached_property
    def _system(self) -> ssl.SSLContext:
        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: bool | str, cert: str | tuple[str, str] | None = None
    ) -> tuple[Any, Any]:
        """Add the system's certificates, unless others are set; requests adds certifi's itself."""
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, ({**pool, "ssl_context": self._system} if verify is True else pool)


class Session(requests.Session):
    """Session of requests with the machine's certificates."""

    def __init__(self) -> None:
        super().__init__()
        self.mount("https://", _Adapter())

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Return the settings of a request; SSL_CERT_FILE comes after all that requests knows."""
        settings = super().merge_environment_settings(url, proxies, stream, verify, cert)
        return (
            {**settings, "verify": os.environ.get("SSL_CERT_FILE") or True} if settings["verify"] is True else settings
        )
