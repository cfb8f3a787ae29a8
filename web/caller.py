"""Sends signed requests to endpoints, and refuses those that no server should be talked into
calling.

The address that is really connected to is checked, after its name was resolved, so that a name
which changes its mind gains nothing. Redirects are not followed, answers are bounded.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from ironflow.core.clock import SECOND, Clock
from ironflow.core.errors import reason_of
from ironflow.core.remote.push import CallFailure, Reply
from ironflow.core.remote.signatures import HEADER, BadSignature, Key, sign_with, verify

LARGEST_ANSWER = 16 * 1024 * 1024
"""Bytes."""
LONGEST_WAIT = 3600.0
"""Seconds of a `Retry-After` that are honoured."""
CONNECT_SECONDS = 5.0

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Behind these addresses a gateway reaches the IPv4 address of their last 32 bits."""


class Refused(CallFailure):
    """The address is none that this server may call."""


class Allowance:
    """Which addresses may be called: public ones, and those in `networks`."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        """Raises `ValueError` for text that is no network."""
        self.networks: list[Network] = [ipaddress.ip_network(text) for text in networks]

    def check(self, address: str) -> None:
        """Raise `Refused` for an address that may not be called."""
        found = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address):
            found = _inside(found)
        if found.is_global and not found.is_multicast:
            return
        if any(found.version == net.version and found in net for net in self.networks):
            return
        raise Refused(f"{address} is not a public address; allow it with push_networks")


def _inside(address: ipaddress.IPv6Address) -> Address:
    """The IPv4 address that is reached by way of an IPv6 one (mapped, 6to4, NAT64), or itself.
    Pythons differ in which of these they call global.
    """
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


class _CheckedResolver(AbstractResolver):
    """Resolves names to addresses that may be called."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for result in found:
            self._allowance.check(result["host"])
        return found

    async def close(self) -> None:
        await self._inner.close()


class HttpCaller:
    """`ironflow.core.remote.push.Caller` over aiohttp."""

    def __init__(self, clock: Clock, allowance: Allowance, keys: Sequence[Key] = ()) -> None:
        """`keys` sign requests, the one in use first, one that is being replaced behind it; without
        any they go out unsigned.
        """
        self._clock, self._allowance, self._keys = clock, allowance, tuple(keys)
        self._session: aiohttp.ClientSession | None = None

    def check(self, url: str) -> None:
        """Raise `CallFailure` for a URL that will never be called."""
        try:
            host = urlsplit(check_url(url)).hostname or ""
        except ValueError as error:
            raise CallFailure(str(error)) from None
        if _is_address(host):
            self._allowance.check(host)

    async def call(self, url: str, body: bytes, seconds: float) -> Reply:
        """POST JSON. Raises `CallFailure` with the reason in one line."""
        # An answer that unfolds to more than it weighs is not asked for, and not unfolded.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._keys:
            headers[HEADER] = sign_with(self._keys, body, self._clock.now() // SECOND)
        self.check(url)  # the connector does not resolve what is no name
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        try:
            async with self._opened().post(
                url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status in (301, 302, 303, 307, 308):
                    raise CallFailure(f"answered {response.status}: redirects are not followed")
                answer = await _read(response)
                signature = response.headers.get(HEADER)
                return Reply(response.status, answer, self._retry_after(response), signature)
        except TimeoutError as error:
            raise CallFailure(f"did not answer within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            refused = _cause(error)
            if refused is not None:
                raise refused from error
            raise CallFailure(f"cannot be reached: {reason_of(error)}") from error

    def check_answer(self, reply: Reply) -> None:
        """Raise `CallFailure` for an answer that was not signed with one of the keys, if any."""
        if self._keys:
            try:
                verify(reply.signature, reply.body, self._keys, self._clock.now() / SECOND)
            except BadSignature as error:
                raise CallFailure(f"did not sign its answer with our key: {error}") from None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=0, resolver=_CheckedResolver(self._allowance), use_dns_cache=False
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
            )
        return self._session

    def _retry_after(self, response: aiohttp.ClientResponse) -> float | None:
        text = response.headers.get("Retry-After", "").strip()
        if not text:
            return None
        if text.isascii() and text.isdigit():
            return min(float(text[:9]), LONGEST_WAIT)
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        now = datetime.fromtimestamp(self._clock.now() / SECOND, UTC)
        return min(max((moment - now).total_seconds(), 0.0), LONGEST_WAIT)

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > LARGEST_ANSWER:
            raise CallFailure(f"answered more than {LARGEST_ANSWER} bytes")
        parts.append(part)
    return b"".join(parts)


def _cause(error: BaseException | None) -> Refused | None:
    """Our own refusal, inside what the connector made of it."""
    seen: Any = error
    while seen is not None:
        if isinstance(seen, Refused):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def check_url(url: str) -> str:
    """An endpoint's URL. Raises `ValueError` in one line."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r:.200} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"{url!r:.200} is not a URL like https://example.com/ironflow")
    if parts.username or parts.password:
        raise ValueError("a URL with a user or a password in it would end up in logs")
    return url
