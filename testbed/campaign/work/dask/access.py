"""Who may be spoken to: whoever joins a Dask scheduler can run code on every machine that speaks with it, this one too.

Dask sends functions and results as pickles, and unpickling runs code: by design, not by mistake. So a scheduler is taken
only over TLS, where it lets in nobody without a certificate of the same authority, or on this machine's loopback.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from testbed.core.errors import UsageError

_CERTIFICATES = (
    "set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and"
    " DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY to PEM files, or the same keys in Dask's configuration"
)


def is_safe(address: str) -> bool:
    """Whether what is said to this address is encrypted and to somebody with a certificate, or stays on this machine."""
    return address.startswith(("tls://", "inproc://")) or _is_loopback(address)


def check_address(address: str, insecure: bool) -> None:
    """Raises UsageError for a scheduler that anybody can join, unless that is what was asked for."""
    if not insecure and not is_safe(address):
        raise UsageError(
            f"the scheduler at {address} is neither tls:// nor on this machine: whoever reaches it can run code on this one"
            " and forge rows; start it with certificates (in the documentation: On a cluster), or accept that with"
            " --insecure"
        )


def check_certificates(address: str) -> None:
    """Raises UsageError where a tls:// address has no certificates in Dask's configuration to go with it."""
    if not address.startswith("tls://"):
        return
    from distributed.security import Security

    try:
        context = Security().get_connection_args("client").get("ssl_context")
    except (OSError, ValueError) as error:  # a file that is not there, or no certificate
        raise UsageError(f"the certificates for {address} cannot be read ({error}); {_CERTIFICATES}") from error
    if context is None:
        raise UsageError(f"no certificates for {address}; {_CERTIFICATES}")


def _is_loopback(address: str) -> bool:
    """Every address that the host's name stands for."""
    try:
        host = urlsplit(address if "://" in address else f"tcp://{address}").hostname
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)} if host else set()
        return bool(addresses) and all(ipaddress.ip_address(ip.split("%")[0]).is_loopback for ip in addresses)
    except (OSError, ValueError):
        return False
