import pytest

from app.api.multipart import parse_multipart
from app.errors import CamserveError, MalformedMultipart
from tests.api.client import form_body

KIND = "multipart/form-data; boundary=b"


def test_parts_come_in_order_and_byte_for_byte() -> None:
    every_byte = bytes(range(256)) + b"\r\n--b\r-\r\n--\r\nb--"
    parts = [("a", b"1"), ("image", every_byte), ("a", b""), ("é", b"2")]
    body, headers = form_body(*parts)
    body = body.replace(b"\r\n--b\r-", b"\r\n--c\r-")
    expected = [(name, content.replace(b"\r\n--b\r-", b"\r\n--c\r-")) for name, content in parts]
    assert parse_multipart(headers["Content-Type"], body) == expected


def test_a_quoted_boundary_a_preamble_of_nothing_and_an_epilogue_are_fine() -> None:
    body, _ = form_body(("a", b"1"), boundary="b c")
    assert parse_multipart('multipart/form-data; boundary="b c"', body + b"epilogue") == [
        ("a", b"1")
    ]


def test_other_headers_and_a_file_name_do_not_count() -> None:
    body = (
        b"--b\r\nContent-Type: image/png\r\ncontent-DISPOSITION: form-data; "
        b'filename="x\\"; name=y"; name="image"\r\nX: y\r\n\r\n1\r\n--b--\r\n'
    )
    assert parse_multipart(KIND, body) == [("image", b"1")]


def test_a_form_cut_short_anywhere_is_never_taken_for_a_whole_one() -> None:
    body, _ = form_body(("image", b"1234"))
    whole = len(body) - len(b"\r\n")  # the last line may end without these
    assert parse_multipart(KIND, body[:whole]) == [("image", b"1234")]
    for length in range(whole):
        with pytest.raises(MalformedMultipart):
            parse_multipart(KIND, body[:length])


def test_too_many_parts_are_refused_before_they_are_read() -> None:
    body, _ = form_body(*[("a", b"")] * 10_000)
    with pytest.raises(CamserveError, match="64 parts"):
        parse_multipart(KIND, body)
