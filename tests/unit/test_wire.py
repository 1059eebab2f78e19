"""The bytes of the client protocol: the handshake in all its versions, frames, and answers."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rethinkdb.handshake import HandshakeV1_0

from cdcbridge.engine import wire
from cdcbridge.engine.errors import ClientError, CompileError, ErrorType, QueryError
from cdcbridge.engine.handshake import Handshake, Ready
from cdcbridge.engine.scram import Credentials, Exchange, ScramError
from cdcbridge.engine.wire import Frames, Query, QueryType, Refused, Send

MAGIC = struct.pack("<I", 0x34C2BDC3)
MAGIC_V0_4 = struct.pack("<I", 0x400C2D20)
JSON_PROTOCOL = struct.pack("<I", 0x7E6970C7)
CREDENTIALS = Credentials("sésame, ouvre-toi=", salt=b"0123456789abcdef", iterations=2)
OPEN = Credentials("", salt=b"0123456789abcdef", iterations=1)


def a_handshake(credentials: Credentials = OPEN) -> Handshake:
    return Handshake(credentials, nonce=lambda: "servernonce")


def message(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\0"


def first_message(user: str = "admin", **changes: Any) -> bytes:
    fields = {
        "protocol_version": 0,
        "authentication_method": "SCRAM-SHA-256",
        "authentication": f"n,,n={user},r=clientnonce",
    }
    return message(**(fields | changes))


def final_message(password: str = "", user: str = "admin", **parts: str) -> bytes:
    """What a client answers to `OPEN`'s salt with this password."""
    server_first = f"r=clientnonceservernonce,s={base64.b64encode(OPEN.salt).decode()},i=1"
    unproven = f"c={parts.get('c', 'biws')},r={parts.get('r', 'clientnonceservernonce')}"
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), OPEN.salt, 1)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    auth_message = f"n={user},r=clientnonce,{server_first},{unproven}".encode()
    signature = hmac.digest(hashlib.sha256(client_key).digest(), auth_message, "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature, strict=True))).decode()
    return message(authentication=f"{unproven},p={parts.get('p', proof)}")


def driver_handshake(password: str, user: str = "admin") -> HandshakeV1_0:
    return HandshakeV1_0(json.JSONDecoder(), json.JSONEncoder(), "localhost", 28015, user, password)


def shaken(handshake: Handshake, client: HandshakeV1_0) -> list[Any]:
    """All events of the official driver shaking hands with us."""
    events: list[Any] = handshake.receive(client.next_message(None))
    for event in events:
        if isinstance(event, Send):
            request = client.next_message(event.data[:-1])
            if request:
                events += handshake.receive(request if isinstance(request, bytes) else request.encode())
    return events


def refusal(data: bytes, credentials: Credentials = OPEN) -> dict[str, Any]:
    """The JSON that these bytes are refused with."""
    event = a_handshake(credentials).receive(data)[-1]
    assert isinstance(event, Refused)
    assert event.data.endswith(b"\0")
    answer: dict[str, Any] = json.loads(event.data[:-1])
    assert answer.pop("success") is False
    return answer


class TestHandshake:
    @pytest.mark.parametrize("password", ["", "secret", "pässword", "a,b=c"])
    def test_the_official_driver_is_let_in_with_the_password(self, password: str) -> None:
        credentials = Credentials(password, salt=b"salt", iterations=3)
        assert isinstance(shaken(a_handshake(credentials), driver_handshake(password))[-1], Ready)

    def test_the_greeting_names_the_protocol_versions_and_the_server_version(self) -> None:
        (event,) = a_handshake().receive(MAGIC)
        assert isinstance(event, Send)
        greeting = json.loads(event.data[:-1])
        assert greeting.pop("server_version").startswith("2.4.")
        assert greeting == {"success": True, "min_protocol_version": 0, "max_protocol_version": 0}

    def test_a_client_that_sends_one_byte_at_a_time_is_let_in(self) -> None:
        handshake = a_handshake()
        events = [
            event for byte in MAGIC + first_message() + final_message() for event in handshake.receive(bytes([byte]))
        ]
        assert [type(event) for event in events] == [Send, Send, Send, Ready]

    def test_what_follows_the_handshake_is_kept(self) -> None:
        events = a_handshake().receive(MAGIC + first_message() + final_message() + b"queries")
        assert events[-1] == Ready(b"queries")

    def test_no_truncation_of_a_handshake_lets_in_or_fails(self) -> None:
        data = MAGIC + first_message() + final_message()
        for length in range(len(data)):
            assert all(isinstance(event, Send) for event in a_handshake().receive(data[:length]))

    def test_a_wrong_password_is_error_12(self) -> None:
        answer = refusal(MAGIC + first_message() + final_message("guess"))
        assert answer == {"error": "Wrong password", "error_code": 12}

    def test_an_unknown_user_is_error_17_and_only_after_the_proof(self) -> None:
        start = MAGIC + first_message("bob")
        assert all(isinstance(event, Send) for event in a_handshake().receive(start))
        assert refusal(start + final_message(user="bob")) == {"error": "Unknown user", "error_code": 17}

    def test_an_unknown_user_with_a_wrong_password_is_error_17_too(self) -> None:
        answer = refusal(MAGIC + first_message("bob") + final_message("guess", user="bob"))
        assert answer["error_code"] == 17

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"protocol_version": "0"}, 1),
            ({"protocol_version": True}, 1),
            ({"protocol_version": 1}, 2),
            ({"authentication_method": 5}, 3),
            ({"authentication_method": "PLAIN"}, 4),
            ({"authentication": None}, 5),
            ({"authentication": "p=tls-unique,,n=admin,r=x"}, 15),
            ({"authentication": "y,,n=admin,r=x"}, 15),
            ({"authentication": "n,"}, 10),
            ({"authentication": "n,,nonsense"}, 10),
            ({"authentication": "n,,n=admin"}, 10),
            ({"authentication": "n,,n=admin,r="}, 10),
            ({"authentication": "n,,n=admin,n=bob,r=x"}, 10),
            ({"authentication": "n,,m=ext,n=admin,r=x"}, 11),
            ({"authentication": "n,,n=ad=2min,r=x"}, 18),
        ],
    )
    def test_a_malformed_first_message_is_refused_by_its_code(self, changes: dict[str, Any], code: int) -> None:
        assert refusal(MAGIC + first_message(**changes))["error_code"] == code

    @pytest.mark.parametrize(
        ("parts", "code"),
        [({"c": "eSws"}, 15), ({"r": "clientnonce"}, 20), ({"p": "!"}, 10), ({"p": "c2hvcnQ="}, 10)],
    )
    def test_a_malformed_final_message_is_refused_by_its_code(self, parts: dict[str, str], code: int) -> None:
        assert refusal(MAGIC + first_message() + final_message(**parts))["error_code"] == code

    def test_a_final_message_that_is_no_text_is_error_5(self) -> None:
        assert refusal(MAGIC + first_message() + message(authentication=[1]))["error_code"] == 5

    @pytest.mark.parametrize(("text", "code"), [(b"{", 8), (b"\xff", 8), (b"", 8), (b"[" * 2000, 8), (b"[]", 9)])
    def test_what_is_no_json_object_is_refused(self, text: bytes, code: int) -> None:
        assert refusal(MAGIC + text + b"\0")["error_code"] == code

    def test_a_message_without_end_is_error_7(self) -> None:
        assert refusal(MAGIC + b"x" * 2048) == {"error": "Limited read buffer size.", "error_code": 7}

    def test_a_long_message_that_fits_is_read(self) -> None:
        padded = first_message(padding="").replace(b'""', b'"' + b"x" * (2047 - len(first_message(padding=""))) + b'"')
        assert len(padded) == 2047
        assert len(a_handshake().receive(MAGIC + padded)) == 2

    @pytest.mark.parametrize("magic", [b"GET ", b"\0\0\0\0", struct.pack("<I", 0x5F75E83E)])
    def test_another_protocol_is_told_in_plain_text_what_this_port_is_for(self, magic: bytes) -> None:
        (event,) = a_handshake().receive(magic + b"/ HTTP/1.1\r\n")
        assert isinstance(event, Refused)
        assert event.data == (
            b"ERROR: Received an unsupported protocol version. This port is for RethinkDB queries."
            b" Does your client driver version not match the server?\n\0"
        )

    def test_nothing_follows_a_refusal(self) -> None:
        handshake = a_handshake()
        handshake.receive(b"GET / HTTP/1.1")
        assert handshake.receive(MAGIC + first_message()) == []

    @pytest.mark.parametrize("magic", [0x3F61BA36, 0x723081E1])
    def test_the_oldest_drivers_are_told_that_protobuf_is_gone(self, magic: int) -> None:
        (event,) = a_handshake().receive(struct.pack("<I", magic))
        assert isinstance(event, Refused)
        assert event.data == b"ERROR: The PROTOBUF client protocol is no longer supported\n\0"

    def test_a_driver_of_version_2_2_is_let_in_byte_by_byte(self) -> None:
        key = "sésame, ouvre-toi=".encode()
        handshake = a_handshake(CREDENTIALS)
        data = MAGIC_V0_4 + struct.pack("<I", len(key)) + key + JSON_PROTOCOL + b"rest"
        events = [event for byte in data[:-4] for event in handshake.receive(bytes([byte]))]
        assert events == [Send(b"SUCCESS\0"), Ready(b"")]
        assert a_handshake(CREDENTIALS).receive(data) == [Send(b"SUCCESS\0"), Ready(b"rest")]

    @pytest.mark.parametrize(
        ("tail", "text"),
        [
            (struct.pack("<I", 3) + b"bad" + JSON_PROTOCOL, "Incorrect authorization key."),
            (struct.pack("<I", 2049), "Client provided an authorization key that is too long."),
            (struct.pack("<III", 0, 0x271FFC41, 0), "The PROTOBUF client protocol is no longer supported"),
            (struct.pack("<II", 0, 5), "Unrecognized protocol specified: '5'"),
        ],
    )
    def test_a_bad_old_handshake_is_refused_in_plain_text(self, tail: bytes, text: str) -> None:
        event = a_handshake().receive(MAGIC_V0_4 + tail)[-1]
        assert isinstance(event, Refused)
        assert event.data == f"ERROR: {text}\n\0".encode()

    @given(st.sampled_from([b"", MAGIC, MAGIC_V0_4, MAGIC + first_message()]), st.lists(st.binary(max_size=3000)))
    def test_no_bytes_make_it_raise_or_let_in(self, start: bytes, chunks: list[bytes]) -> None:
        handshake = a_handshake(CREDENTIALS)
        events = [event for chunk in [start, *chunks] for event in handshake.receive(chunk)]
        assert not any(isinstance(event, Ready) for event in events)


class TestScram:
    def test_the_exchange_of_rfc_7677_comes_out_as_printed_there(self) -> None:
        credentials = Credentials("pencil", salt=base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), iterations=4096)
        exchange = Exchange(credentials, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
        nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
        first = exchange.first("n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
        assert first == f"r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
        transcript = f"n=user,r=rOprNGfwEbeRWgbNEkqO,{first},c=biws,r={nonce}"
        signature = credentials.signature(proof, transcript.encode())
        assert signature == base64.b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")

    def test_a_name_may_hold_escaped_commas_and_equal_signs(self) -> None:
        exchange = Exchange(OPEN, "s")
        assert exchange.first("n,,n=a=2Cb=3Dc,r=x").startswith("r=xs,")

    def test_the_authorization_identity_is_part_of_the_channel_binding(self) -> None:
        exchange = Exchange(OPEN, "s")
        exchange.first("n,a=bob,n=admin,r=x")
        with pytest.raises(ScramError, match="Channel binding"):
            exchange.final("c=biws,r=xs,p=" + base64.b64encode(bytes(32)).decode())


def frame(token: int, text: bytes) -> bytes:
    return struct.pack("<qI", token, len(text)) + text


def queries(frames: Frames) -> list[Any]:
    return list(iter(frames.next, None))


class TestFrames:
    def test_queries_come_out_in_order_however_the_bytes_arrive(self) -> None:
        data = frame(1, b"[2]") + frame(-2, b"") + frame(2**62, b'[1,"x",{}]')
        expected = [Query(1, b"[2]"), Query(-2, b""), Query(2**62, b'[1,"x",{}]')]
        for size in range(1, len(data) + 1):
            frames, found = Frames(), []
            for start in range(0, len(data), size):
                frames.receive(data[start : start + size])
                found += queries(frames)
            assert found == expected

    def test_what_came_with_the_handshake_counts(self) -> None:
        assert queries(Frames(frame(7, b"[5]"))) == [Query(7, b"[5]")]

    def test_a_query_over_the_limit_is_refused_before_it_is_read(self) -> None:
        frames = Frames(struct.pack("<qI", 9, wire.MAX_QUERY_BYTES + 1))
        event = frames.next()
        assert isinstance(event, Refused)
        assert event.data[:8] == struct.pack("<q", 9)
        answer = json.loads(event.data[12:])
        assert answer == {
            "t": 16,
            "r": ["Query size (134217728) greater than maximum (134217727)."],
            "b": [],
        }

    def test_nothing_is_kept_after_a_refusal(self) -> None:
        frames = Frames(struct.pack("<qI", 9, 1 << 31))
        frames.next()
        frames.receive(frame(1, b"[2]"))
        assert frames.next() is None

    def test_a_query_at_the_limit_is_waited_for(self) -> None:
        assert Frames(struct.pack("<qI", 9, wire.MAX_QUERY_BYTES)).next() is None


class TestParse:
    @pytest.mark.parametrize(
        ("text", "kind"),
        [(b"[2]", "CONTINUE"), (b"[3]", "STOP"), (b"[4]", "NOREPLY_WAIT"), (b"[5,null,{}]", "SERVER_INFO")],
    )
    def test_requests_without_a_term_are_told_by_their_number(self, text: bytes, kind: str) -> None:
        assert wire.parse(text).type is QueryType[kind]

    def test_a_start_has_a_term_and_options(self) -> None:
        request = wire.parse(b'[1,[15,["t"]],{"db":[14,["shop"]]}]')
        assert (request.term, request.options) == ([15, ["t"]], {"db": [14, ["shop"]]})

    def test_a_start_may_leave_its_options_out(self) -> None:
        assert wire.parse(b"[1,5]").options == {}

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"[1,",
            b"nonsense",
            b"\xff",
            b'"\xff"',
            b"[1,NaN]",
            b"[1,1e999]",
            b'[1,"\\ud800"]',
            b"[" * 100_000,
            b"[1," * 5_000,
            b"[1] x",
            b"9" * 5_000,
        ],
    )
    def test_what_is_no_json_is_a_buggy_client(self, text: bytes) -> None:
        with pytest.raises(ClientError) as caught:
            wire.parse(text)
        assert caught.value.message == "Client is buggy (failed to deserialize query)."

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (b"{}", "Expected a query to be an array, but found OBJECT."),
            (b"null", "Expected a query to be an array, but found NULL."),
            (b"true", "Expected a query to be an array, but found BOOL."),
            (b"1", "Expected a query to be an array, but found NUMBER."),
            (b'"x"', "Expected a query to be an array, but found STRING."),
            (b"[]", "Expected 1 to 3 elements in the top-level query, but found 0."),
            (b"[1,2,{},4]", "Expected 1 to 3 elements in the top-level query, but found 4."),
            (b'["1"]', "Expected a query type as a number, but found STRING."),
            (b"[[1]]", "Expected a query type as a number, but found ARRAY."),
            (b"[true]", "Expected a query type as a number, but found BOOL."),
            (b"[6]", "Unrecognized QueryType: 6."),
            (b"[1]", "Expected a term in a START query, but found none."),
            (b"[1,2,[]]", "Expected global optargs as an object, but found ARRAY."),
        ],
    )
    def test_what_is_no_query_is_told_why(self, text: bytes, problem: str) -> None:
        with pytest.raises(ClientError) as caught:
            wire.parse(text)
        assert caught.value.message == f"Server could not parse query: {problem}"

    def test_large_numbers_and_repeated_keys_are_read(self) -> None:
        assert wire.parse(b"[1,123456789012345678901234567890]").term == 123456789012345678901234567890
        assert wire.parse(b'[1,{"a":1,"a":2}]').term == {"a": 2}

    @given(st.binary(max_size=200))
    def test_no_bytes_raise_anything_but_a_client_error(self, text: bytes) -> None:
        with contextlib.suppress(ClientError):
            wire.parse(text)


class TestAnswers:
    def test_an_answer_goes_out_in_one_piece_with_its_token_and_length(self) -> None:
        assert wire.frame(5, b"{}") == struct.pack("<qI", 5, 2) + b"{}"

    def test_an_answer_that_no_frame_can_hold_becomes_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wire, "MAX_ANSWER_BYTES", 10)
        answer = json.loads(wire.frame(5, b"x" * 11)[12:])
        assert (answer["t"], answer["e"]) == (18, ErrorType.RESOURCE_LIMIT)

    def test_an_atom_holds_the_value_as_it_is(self) -> None:
        assert json.loads(wire.atom(b'{"a":1}')) == {"t": 1, "r": [{"a": 1}]}

    def test_batches_always_have_notes(self) -> None:
        assert json.loads(wire.batch([b"1", b"2"], (), done=False)) == {"t": 3, "r": [1, 2], "n": []}
        assert json.loads(wire.batch([], (1, 5), done=True)) == {"t": 2, "r": [], "n": [1, 5]}

    def test_a_profile_is_there_when_it_was_asked_for(self) -> None:
        assert json.loads(wire.atom(b"1", profile=True))["p"] == []
        assert json.loads(wire.batch([], (), done=False, profile=True))["p"] == []
        assert json.loads(wire.error(ClientError("x"), profile=True))["p"] == []

    def test_a_runtime_error_has_its_type_and_its_path(self) -> None:
        failure = QueryError(ErrorType.NON_EXISTENCE, "No attribute `é`.", (0, "index"))
        answer = {"t": 18, "e": 3100000, "r": ["No attribute `é`."], "b": [0, "index"]}
        assert json.loads(wire.error(failure)) == answer

    def test_an_error_without_a_path_has_an_empty_one(self) -> None:
        assert json.loads(wire.error(QueryError(ErrorType.USER, "x")))["b"] == []

    def test_compile_and_client_errors_have_no_error_type(self) -> None:
        assert json.loads(wire.error(CompileError("x", (1,)))) == {"t": 17, "r": ["x"], "b": [1]}
        assert json.loads(wire.error(ClientError("x"))) == {"t": 16, "r": ["x"], "b": []}

    def test_a_message_that_is_no_utf_8_is_told_all_the_same(self) -> None:
        assert json.loads(wire.error(QueryError(ErrorType.USER, "a\ud800b")))["r"] == ["a?b"]

    def test_the_other_answers_have_their_types(self) -> None:
        assert json.loads(wire.wait_complete()) == {"t": 4, "r": []}
        assert json.loads(wire.server_info(b'{"id":1}')) == {"t": 5, "r": [{"id": 1}]}
