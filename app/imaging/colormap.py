"""Colour maps as 256-entry tables, [256, 3] uint8.

Every fifth entry of the published tables (viridis, inferno and magma: van der Walt and Smith 2015,
CC0; cividis: Nuñez, Anderton and Renslow 2018, CC0; turbo: Mikhailov 2019, Apache-2.0), linear in
between: within one level of the full tables (cividis: four). ``jet`` is its four straight lines.
"""

from functools import cache

import numpy as np

from app.types import Pixels

_EVERY_FIFTH = {
    "inferno": (
        "00000402020c0504170a072210092d160b391e0c45260c512f0a5b380962400a67490b6a510e6c"
        "59106e61136e69166e71196e781c6d801f6c88226a902568982766a02a63a82e5fb0315bb73557"
        "bf3952c63d4dcc4248d34743d94d3ddf5337e45a31e9612bed6925f1711ff47918f78212f98b0b"
        "fa9407fb9d07fca60cfcb014fbba1ffac42af8cd37f6d746f4e156f2ea69f2f27df5f992fcffa4"
    ),
    "viridis": (
        "44015446085c471063481769481d6f482475472a7a46307e453781433d844142873f48893d4e8a"
        "3a538b38598c355e8d33638d31688e2e6d8e2c718e2a768e297b8e27808e25848e23898e218e8d"
        "20928c1f978b1e9c891fa18821a58524aa8328ae802eb37c35b7793dbc7446c06f50c46a5ac864"
        "65cb5e70cf577cd25089d54895d840a2da37b0dd2fbddf26cae11fd8e219e5e419f1e51dfde725"
    ),
    "magma": (
        "00000402020b0504160907200e0b2b140e361a104221114e29115a311165390f6e420f754a1079"
        "52137c5a167e6219806a1c81721f81792282812581892881912b81992d80a1307eaa337db2357b"
        "ba3878c23b75ca3e72d2426fd9466be04c67e75263ec5860f1605df4695cf7725cf97b5dfb8560"
        "fc8e64fd9869fea16efeaa74feb47bfebd82fec68afecf92fed89afde2a3fdebacfcf4b6fcfdbf"
    ),
    "cividis": (
        "00224e002656002a5f002d68003070083370163770203a6f273e6e2e416d34456c3a486c3f4c6c"
        "444f6c49536c4e566c535a6d575d6d5c616e60646f656870696b716d6f727272747676767a7a78"
        "7e7d788381798885788d8878928c789690779b9476a09875a59c74aaa073afa471b5a86fbaac6d"
        "bfb06bc4b468c9b965cfbd62d4c15fdac65bdfca57e5cf52ead34cf0d846f6dd3ffce236fee838"
    ),
    "turbo": (
        "30123b36215f3b2f803f3e9c424bb54559cb4666dd4773eb4680f6458cfd4099ff38a5fb2fb2f4"
        "27bee91fc9dd1ad4d018ddc21ae4b622ebaa2ff19b3ff68a52fa7a65fd6979fe598bff4b9cfe40"
        "a9fb39b7f735c3f134d0ea34dbe236e5d938eecf3af5c53afaba39fdae35fea130fe932afc8423"
        "f9751df46617ef5811e84b0ce14109d83706ce2d04c32503b71d02a916019b0f018b09027a0403"
    ),
}


@cache
def colormap(name: str) -> Pixels:
    """The table of a colour map, [256, 3], read-only; ``KeyError`` for an unknown name."""
    levels = np.arange(256)
    if name == "jet":
        thirds = levels[:, None] / 255 * 4 - np.array([3.0, 2.0, 1.0])
        table = np.clip(1.5 - np.abs(thirds), 0, 1) * 255
    else:
        anchors = np.frombuffer(bytes.fromhex(_EVERY_FIFTH[name]), np.uint8).reshape(52, 3)
        places = np.arange(0, 256, 5)
        table = np.stack([np.interp(levels, places, channel) for channel in anchors.T], axis=1)
    rounded: Pixels = table.round().astype(np.uint8)
    rounded.flags.writeable = False  # all callers share it
    return rounded
