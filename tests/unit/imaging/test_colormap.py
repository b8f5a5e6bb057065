"""The colour maps are the published ones."""

import numpy as np
import pytest

from app.imaging.colormap import colormap

NAMES = ["inferno", "viridis", "magma", "cividis", "turbo", "jet"]
PUBLISHED = {
    "inferno": {0: "000004", 64: "57106e", 128: "bc3754", 192: "f98e09", 255: "fcffa4"},
    "viridis": {0: "440154", 64: "3b528b", 128: "21918c", 192: "5ec962", 255: "fde725"},
    "magma": {0: "000004", 64: "51127c", 128: "b73779", 192: "fc8961", 255: "fcfdbf"},
    "cividis": {0: "00224e", 64: "434e6c", 128: "7d7c78", 192: "bcae6c", 255: "fee838"},
    "turbo": {0: "30123b", 64: "28bceb", 128: "a4fc3c", 192: "fb7e21", 255: "7a0403"},
    "jet": {0: "000080", 32: "0000ff", 96: "00ffff", 160: "ffff00", 224: "ff0000", 255: "800000"},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_table_has_256_colours(name: str) -> None:
    table = colormap(name)
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8


@pytest.mark.parametrize("name", NAMES)
def test_colours_are_the_published_ones(name: str) -> None:
    tolerance = {"cividis": 4, "jet": 4}.get(name, 1)
    for place, color in PUBLISHED[name].items():
        off = colormap(name)[place].astype(int) - np.array(list(bytes.fromhex(color)))
        assert np.abs(off).max() <= (0 if place == 0 else tolerance), place


@pytest.mark.parametrize("name", ["inferno", "viridis", "magma", "cividis"])
def test_more_evidence_is_lighter_in_the_perceptually_uniform_maps(name: str) -> None:
    linear = (colormap(name) / 255) ** 2.2
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > -1e-3).all()
    assert (np.diff(luminance[::8]) > 0).all()


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        colormap("__proto__")


def test_nobody_can_change_a_table_for_everybody() -> None:
    with pytest.raises(ValueError, match="read-only"):
        colormap("inferno")[0, 0] = 1
