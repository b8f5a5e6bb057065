import pytest

from app.api.negotiate import negotiate
from app.errors import NotAcceptable

JSON, PNG, WEBP = "application/json", "image/png", "image/webp"
OFFERS = (JSON, PNG, WEBP)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        (" , ", JSON),
        ("*/*", JSON),
        ("image/webp, image/png", PNG),
        ("image/webp;q=0.9, image/png;q=0.8", WEBP),
        ("image/webp;q=0.9,image/png;q=0.901", PNG),
        ("image/png;level=1;Q=0.4, image/webp ; q=0.5", WEBP),
        ("*/*;q=0.9, application/json;q=0.1", PNG),
        ("image/*;q=0.1, image/webp;q=0.3, text/html", WEBP),
        ("image/png;q=0, image/png;q=0.2", PNG),
        ("image/png;q=1.000", PNG),
    ],
)
def test_the_best_offer_is_taken_and_the_first_among_equals(accept: str, chosen: str) -> None:
    assert negotiate(accept, OFFERS) == chosen


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "image",
        "*",
        "image/png;q=0",
        "image/png;q=nan",
        "image/png;q=2",
        "image/png;q=",
        "image/png;q=-1",
        "*/*;q=0.0",
        "image/*;q=0, text/*",
    ],
)
def test_where_no_offer_will_do_the_error_lists_them(accept: str) -> None:
    with pytest.raises(NotAcceptable, match=f"{JSON}, {PNG}, {WEBP}"):
        negotiate(accept, OFFERS)
