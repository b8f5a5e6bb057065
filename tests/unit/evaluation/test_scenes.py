import numpy as np
import pytest

from app.evaluation.scenes import (
    SHAPE_LABELS,
    Scene,
    bare_skin,
    lesion_scene,
    shapes_scene,
)
from app.evaluation.scenes.shapes import DOMINANCE

SIZES = [(96, 96), (120, 90), (81, 140)]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def crowd(seed: int, n_objects: int = 4) -> Scene:
    return shapes_scene(rng(seed), (128, 128), n_objects=n_objects)


@pytest.mark.parametrize("draw", [shapes_scene, lesion_scene, bare_skin])
def test_the_same_seed_gives_the_same_picture(draw) -> None:  # type: ignore[no-untyped-def]
    first, again, other = draw(rng(5)), draw(rng(5)), draw(rng(6))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_and_masks_have_the_size_asked_for(size: tuple[int, int]) -> None:
    for scene in (shapes_scene(rng(1), size), lesion_scene(rng(1), size, sticker=True)):
        assert scene.image.shape == (*size, 3)
        assert scene.image.dtype == np.uint8
        assert scene.mask.shape == size
        assert all(mask.shape == size for mask in scene.extras.values())


@pytest.mark.parametrize("seed", range(12))
def test_shapes_never_overlap(seed: int) -> None:
    covered = np.sum([thing.mask for thing in crowd(seed).objects], axis=0)
    assert covered.max() == 1


@pytest.mark.parametrize("seed", range(12))
def test_one_shape_clearly_dominates_and_names_the_picture(seed: int) -> None:
    scene = crowd(seed)
    areas = [int(thing.mask.sum()) for thing in scene.objects]
    assert scene.label == scene.objects[0].label
    assert areas == sorted(areas, reverse=True)
    assert all(areas[0] >= DOMINANCE * area for area in areas[1:])


def test_the_shapes_of_a_picture_are_of_different_classes() -> None:
    for seed in range(8):
        labels = [thing.label for thing in crowd(seed).objects]
        assert len(set(labels)) == len(labels)
        assert set(labels) <= set(range(len(SHAPE_LABELS)))


def test_the_dominant_class_can_be_chosen() -> None:
    for label in range(len(SHAPE_LABELS)):
        assert shapes_scene(rng(2), (96, 96), n_objects=2, label=label).label == label


def test_no_shape_is_too_small_for_a_coarse_map_to_point_at() -> None:
    smallest = min(thing.mask.mean() for seed in range(12) for thing in crowd(seed).objects)
    assert smallest > 0.19**2


@pytest.mark.parametrize("seed", range(20))
def test_a_sticker_never_touches_the_lesion(seed: int) -> None:
    scene = lesion_scene(rng(seed), (128, 128), sticker=True)
    assert scene.extras["sticker"].any()
    assert not (scene.extras["sticker"] & scene.mask).any()


def test_class_and_sticker_can_be_chosen_freely() -> None:
    for label in (0, 1):
        for sticker in (False, True):
            scene = lesion_scene(rng(3), (96, 96), label=label, sticker=sticker)
            assert scene.label == label
            assert ("sticker" in scene.extras) is sticker


def test_stickers_are_as_common_in_both_classes() -> None:
    scenes = [lesion_scene(rng(seed), (48, 48)) for seed in range(80)]
    for label in (0, 1):
        stuck = ["sticker" in scene.extras for scene in scenes if scene.label == label]
        assert 0.3 < np.mean(stuck) < 0.7


def test_a_lesion_covers_a_fair_part_of_the_picture() -> None:
    shares = [lesion_scene(rng(seed), (96, 96)).mask.mean() for seed in range(20)]
    assert min(shares) > 0.1
    assert max(shares) < 0.4


def test_bare_skin_shows_no_object() -> None:
    scene = bare_skin(rng(4), (96, 96), sticker=True)
    assert scene.objects == ()
    assert scene.extras["sticker"].any()
