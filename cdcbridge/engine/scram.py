"""SCRAM-SHA-256, the server's side: a client proves that it knows the password, and sees that the server knows it too.

Pure: salt and nonces are passed in, and nothing here knows how messages travel.

Source: RFC 5802 and RFC 7677; the error codes are those of RethinkDB's V1_0 handshake.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

import msgspec

ADMIN = "admin"
ITERATIONS = 4096


class ScramError(Exception):
    """The client is not let in; `code` is what the driver turns into `ReqlAuthError`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _Keys(msgspec.Struct, frozen=True):
    """What is left of a password once it is salted."""

    stored: bytes
    server: bytes


class Credentials:
    """The one user, `admin`, and its password in the form that the exchange needs.

    Salting costs milliseconds, with many iterations more, so it is done once and not for each client. The password
    itself is not kept.
    """

    def __init__(self, password: str, *, salt: bytes, iterations: int = ITERATIONS) -> None:
        self.salt = salt
        self.iterations = iterations
        self._keys = tuple(self._derive(spelling) for spelling in _spellings(password))
        self._plain = tuple(_hmac(salt, spelling) for spelling in _spellings(password))

    def admits(self, password: bytes) -> bool:
        """Is this the password? For the older handshake, which sends it in the clear.

        It is not salted slowly: whoever tries many passwords would make all others wait.
        """
        mac = _hmac(self.salt, password)
        return any(hmac.compare_digest(mac, plain) for plain in self._plain)

    def signature(self, proof: bytes, auth_message: bytes) -> bytes | None:
        """The server's signature if `proof` proves the password, else `None`."""
        for keys in self._keys:
            if _proves(proof, keys.stored, auth_message):
                return _hmac(keys.server, auth_message)
        return None

    def _derive(self, password: bytes) -> _Keys:
        salted = hashlib.pbkdf2_hmac("sha256", password, self.salt, self.iterations)
        return _Keys(hashlib.sha256(_hmac(salted, b"Client Key")).digest(), _hmac(salted, b"Server Key"))


class Exchange:
    """One client's way through SCRAM: `first`, then `final`.

    An unknown user learns of it only at the end, after the same work as for a wrong password.

    Raises:
        ScramError: from both; the exchange is over.
    """

    def __init__(self, credentials: Credentials, nonce: str) -> None:
        self._credentials = credentials
        self._nonce = nonce
        self._known = False
        self._binding = ""
        self._transcript = ""

    def first(self, message: str) -> str:
        """The server's first message, for the client's first."""
        header, bare = _split_header(message)
        user, nonce = _user_and_nonce(bare)
        self._known = hmac.compare_digest(user.encode(), ADMIN.encode())
        self._nonce = nonce + self._nonce
        self._binding = _text(header.encode())
        salt, iterations = _text(self._credentials.salt), self._credentials.iterations
        answer = f"r={self._nonce},s={salt},i={iterations}"
        self._transcript = f"{bare},{answer}"
        return answer

    def final(self, message: str) -> str:
        """The server's final message, with its own proof, for the client's final."""
        unproven, _, proof = message.rpartition(",p=")
        attributes = _attributes(unproven)
        if attributes.get("c") != self._binding:
            raise ScramError(15, "Channel binding is not supported")
        if attributes.get("r") != self._nonce:
            raise ScramError(20, "Invalid nonce")
        signature = self._credentials.signature(_proof(proof), f"{self._transcript},{unproven}".encode())
        if not self._known:
            raise ScramError(17, "Unknown user")
        if signature is None:
            raise ScramError(12, "Wrong password")
        return f"v={_text(signature)}"


def _spellings(password: str) -> list[bytes]:
    """The password's bytes as clients send them: UTF-8, and Latin-1, which is what the official Python driver does."""
    utf8 = password.encode()
    try:
        return sorted({utf8, password.encode("latin-1")})
    except UnicodeEncodeError:
        return [utf8]


def _split_header(message: str) -> tuple[str, str]:
    """The header that speaks of channel binding, up to its second comma, and the rest."""
    if not message.startswith("n,"):
        raise ScramError(15, "Channel binding is not supported")
    identity, comma, bare = message[2:].partition(",")
    if not comma:
        raise ScramError(10, "Invalid encoding")
    return f"n,{identity},", bare


def _user_and_nonce(bare: str) -> tuple[str, str]:
    attributes = _attributes(bare)
    if "m" in attributes:
        raise ScramError(11, "Extensions not supported")
    if "n" not in attributes or not attributes.get("r"):
        raise ScramError(10, "Invalid encoding")
    return _unescaped(attributes["n"]), attributes["r"]


def _attributes(message: str) -> dict[str, str]:
    """`a=…,b=…` as a dict. A letter that comes twice is an error."""
    attributes: dict[str, str] = {}
    for part in message.split(","):
        if part[1:2] != "=" or part[0] in attributes:
            raise ScramError(10, "Invalid encoding")
        attributes[part[0]] = part[2:]
    return attributes


def _unescaped(name: str) -> str:
    plain = name.replace("=2C", ",")
    if "=" in plain.replace("=3D", ""):
        raise ScramError(18, "Invalid username encoding")
    return plain.replace("=3D", "=")


def _proof(text: str) -> bytes:
    try:
        proof = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ScramError(10, "Invalid encoding") from exc
    if len(proof) != hashlib.sha256().digest_size:
        raise ScramError(10, "Invalid encoding")
    return proof


def _proves(proof: bytes, stored_key: bytes, auth_message: bytes) -> bool:
    signature = _hmac(stored_key, auth_message)
    client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), stored_key)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
