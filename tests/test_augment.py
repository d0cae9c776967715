"""Augmentation: every image is what it claims to be, by its own draw, in bits that the generator decides."""

import math

import numpy as np
import pytest

from fastconv.augment import Compose, RandomAffine, RandomCrop, RandomHorizontalFlip

EVERY = [RandomHorizontalFlip(), RandomCrop(3), RandomAffine(20, 2.5, (0.8, 1.3), 15),
         Compose(RandomCrop(2), RandomHorizontalFlip())]
every = pytest.mark.parametrize("augmentation", EVERY, ids=repr)


def images(count=20, channels=3, height=9, width=7):
    pixels = np.random.default_rng(5).standard_normal((count, height, width, channels), np.float32)
    return pixels.transpose(0, 3, 1, 2)


@every
def test_gives_new_channels_last_images_that_the_generator_decides(augmentation):
    x = images()
    before = x.copy()
    first, second, third = (augmentation(x, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.dtype == np.float32
    assert first.shape == x.shape
    assert first.transpose(0, 2, 3, 1).flags.c_contiguous
    assert first.tobytes() == second.tobytes() != third.tobytes()
    assert not np.shares_memory(first, x)
    np.testing.assert_array_equal(x, before)


@every
def test_images_may_lie_anyhow_in_memory(augmentation):
    x = images()
    expected = augmentation(x, np.random.default_rng(1))
    for other in (np.ascontiguousarray(x), x[::-1].copy()[::-1]):
        np.testing.assert_array_equal(augmentation(other, np.random.default_rng(1)), expected)


@every
def test_a_batch_of_no_images_stays_empty(augmentation):
    assert augmentation(images(0), np.random.default_rng(0)).shape == (0, 3, 9, 7)


def test_flip_mirrors_a_share_p_of_the_images():
    x = images(400)
    y = RandomHorizontalFlip(0.25)(x, np.random.default_rng(0))
    same = (y == x).all(axis=(1, 2, 3))
    mirrored = (y == x[..., ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(mirrored.sum() - 100) < 4 * math.sqrt(400 * 0.25 * 0.75)
    assert (RandomHorizontalFlip(0)(x, np.random.default_rng(0)) == x).all()
    assert (RandomHorizontalFlip(1)(x, np.random.default_rng(0)) == x[..., ::-1]).all()


def test_crop_cuts_every_offset_out_of_the_padded_image():
    x = images(400)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    pieces = [(padded[:, :, top:top + 9, left:left + 7]) for top in range(5) for left in range(5)]
    y = RandomCrop(2)(x, np.random.default_rng(0))
    found = np.array([(y == piece).all(axis=(1, 2, 3)) for piece in pieces])
    assert (found.sum(axis=0) == 1).all()
    assert found.any(axis=1).all()
    np.testing.assert_array_equal(RandomCrop(0)(x, np.random.default_rng(0)), x)


def naive_affine(image, matrix, shift):
    """image (C, H, W) moved by v -> matrix v + shift about its centre, pixel by pixel in float64."""
    _, height, width = image.shape
    centre = np.array([height - 1, width - 1]) / 2
    moved = np.empty(image.shape)
    for place in np.ndindex(height, width):
        source = np.linalg.solve(matrix, np.array(place) - centre - shift) + centre
        row, column = np.clip(source, 0, (height - 1, width - 1))
        top, left = int(row), int(column)
        below, right = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = image[:, top, left] * (1 - column + left) + image[:, top, right] * (column - left)
        lower = image[:, below, left] * (1 - column + left) + image[:, below, right] * (column - left)
        moved[:, *place] = upper * (1 - row + top) + lower * (row - top)
    return moved


def test_affine_is_rotation_shear_scale_and_shift():
    augmentation, x = RandomAffine(25, 1.5, (0.7, 1.4), 20), images(12)
    y = augmentation(x, np.random.default_rng(3))
    draws = np.random.default_rng(3).uniform(-1, 1, (5, 12)).T
    for image, found, (angle, lean, down, right, size) in zip(x, y, draws, strict=True):
        angle, lean = math.radians(25 * angle), math.tan(math.radians(20 * lean))
        rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        shear = np.array([[1, 0], [-lean, 1]])
        scale = 0.7 + 0.7 * (size + 1) / 2
        expected = naive_affine(image.astype(np.float64), scale * rotation @ shear,
                                1.5 * np.array([down, right]))
        # Positions of a few pixels in float32, times slopes of at most the spread of the values.
        np.testing.assert_allclose(found, expected, rtol=0, atol=32 * 2.0**-24 * 9 * np.ptp(x))


def test_affine_of_nothing_changes_nothing():
    np.testing.assert_array_equal(RandomAffine()(images(), np.random.default_rng(0)), images())


def test_affine_stays_within_its_limits():
    """A ramp shows how far each pixel came: translations of at most 2, each different."""
    ramp = np.broadcast_to(np.arange(30, dtype=np.float32), (200, 1, 30, 30))
    moves = (ramp - RandomAffine(translate=2)(ramp, np.random.default_rng(0)))[:, 0, 15, 15]
    assert 1.8 < abs(moves).max() <= 2
    assert len(set(moves)) > 150


@pytest.mark.parametrize(("create", "message"), [
    (lambda: RandomHorizontalFlip(1.1), "p must be from 0 to 1, got 1.1"),
    (lambda: RandomCrop(-1), "padding must not be negative, got -1"),
    (lambda: RandomAffine(-1), r"degrees must be from 0 to 180.*degrees=-1"),
    (lambda: RandomAffine(shear=90), r"shear from 0 to 90.*shear=90"),
    (lambda: RandomAffine(translate=math.nan), "translate not negative.*nan"),
    (lambda: RandomAffine(scale=(0, 1)), r"scale must be two positive factors in order, got \(0, 1\)"),
    (lambda: RandomAffine(scale=(1.2, 1.1)), r"got \(1.2, 1.1\)"),
])
def test_wrong_options_are_named(create, message):
    with pytest.raises(ValueError, match=message):
        create()
