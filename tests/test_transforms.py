"""Augmentation: image and mask stay together, nothing is invented, and (seed, epoch, row) decides everything."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from modeling_resformer.data.transforms import AUGMENTATIONS, Augmentation, augment, default_augmentation


ROTATION = Augmentation(rotation_degrees=180, horizontal_flip=0, vertical_flip=0)
LEFT_RIGHT = Augmentation(rotation_degrees=0, horizontal_flip=1, vertical_flip=0)
UPSIDE_DOWN = Augmentation(rotation_degrees=0, horizontal_flip=0, vertical_flip=1)


@pytest.fixture
def pair():
    """A smooth image 30 high and 40 wide, and the mask of its bright part."""
    y, x = np.mgrid[:30, :40]
    smooth = 127 + 60 * np.sin(x / 9) + 60 * np.cos(y / 7)
    image = np.dstack([smooth, smooth[:, ::-1], smooth]).astype(np.uint8)
    return Image.fromarray(image), Image.fromarray((smooth > 127).astype(np.uint8))


def test_flips_are_exact(pair):
    image, mask = pair
    for augmentation, axis in ((LEFT_RIGHT, 1), (UPSIDE_DOWN, 0)):
        flipped, flipped_mask = augment(image, mask, augmentation, seed=0, epoch=0, row_index=0)
        np.testing.assert_array_equal(np.asarray(flipped), np.flip(np.asarray(image), axis))
        np.testing.assert_array_equal(np.asarray(flipped_mask), np.flip(np.asarray(mask), axis))


def test_nothing_allowed_changes_nothing(pair):
    image, mask = augment(*pair, Augmentation(0, 0, 0), seed=0, epoch=3, row_index=5)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(pair[0]))
    np.testing.assert_array_equal(np.asarray(mask), np.asarray(pair[1]))


def test_rotation_agrees_with_torchvision(pair):
    image, mask = pair
    for row_index in range(5):
        angle, *_ = ROTATION.draw(0, 0, row_index)
        ours, our_mask = augment(image, mask, ROTATION, 0, 0, row_index)
        theirs = tv.rotate(torch.from_numpy(np.array(image)).permute(2, 0, 1), angle, InterpolationMode.BILINEAR)
        their_mask = tv.rotate(torch.from_numpy(np.array(mask))[None], angle, fill=[255])[0].numpy()
        our_mask = np.asarray(our_mask)
        assert (our_mask == their_mask).mean() > 0.99
        difference = np.abs(np.asarray(ours, dtype=int) - theirs.permute(1, 2, 0).numpy())[our_mask != 255]
        # At the border of the uncovered corners torchvision blends with black.
        assert np.quantile(difference, 0.9) <= 1


def test_uncovered_corners_are_ignored_and_no_class_is_invented(pair):
    image, mask = pair
    for row_index in range(20):
        _, turned = augment(image, mask, default_augmentation("dermoscopy"), 0, 0, row_index)
        assert set(np.unique(turned)) <= {0, 1, 255}
    _, turned = augment(image, Image.new("L", image.size, 1), ROTATION, 0, 0, 1, ignore_index=250)
    assert set(np.unique(turned)) == {1, 250}


def test_the_three_numbers_decide_everything(pair):
    augmentation = Augmentation(rotation_degrees=20, horizontal_flip=0.5)
    drawn = {(s, e, r): augmentation.draw(s, e, r) for s in range(3) for e in range(3) for r in range(50)}
    assert len({change.angle for change in drawn.values()}) == len(drawn)
    assert max(abs(change.angle) for change in drawn.values()) <= 20
    assert 0.4 < np.mean([change.horizontal for change in drawn.values()]) < 0.6
    np.random.seed(9)
    torch.manual_seed(9)
    assert augmentation.draw(1, 2, 3) == drawn[1, 2, 3]


def test_sixteen_bit_grey_keeps_its_values_and_palettes_their_colours(pair):
    _, mask = pair
    deep = np.linspace(0, 65535, 30 * 40).reshape(30, 40).astype(np.uint16)
    flipped, _ = augment(Image.fromarray(deep), mask, LEFT_RIGHT, 0, 0, 0)
    np.testing.assert_array_equal(np.asarray(flipped), deep[:, ::-1])
    turned, turned_mask = augment(Image.fromarray(deep), mask, Augmentation(10, 0, 0), 0, 0, 0)
    inside = np.asarray(turned_mask) != 255
    assert np.asarray(turned)[inside].mean() == pytest.approx(deep.mean(), rel=0.1)
    palette = pair[0].quantize(8)
    flipped, _ = augment(palette, mask, LEFT_RIGHT, 0, 0, 0)
    np.testing.assert_array_equal(np.asarray(flipped), np.asarray(palette.convert("RGB"))[:, ::-1])


def test_a_row_without_mask_and_wrong_input(pair):
    image, mask = pair
    assert augment(image, None, ROTATION, 0, 0, 0)[1] is None
    with pytest.raises(ValueError, match=r"\(40, 30\), its mask \(20, 30\)"):
        augment(image, mask.resize((20, 30)), ROTATION, 0, 0, 0)
    with pytest.raises(ValueError, match=r"horizontal_flip is 2; expected a number from 0 to 1"):
        Augmentation(horizontal_flip=2)


SCALED = Augmentation(rotation_degrees=0, horizontal_flip=0, vertical_flip=0, scale_jitter=0.5)
RECOLORED = Augmentation(rotation_degrees=0, horizontal_flip=0, vertical_flip=0, color_jitter=0.3)


def test_scale_agrees_with_torchvision(pair):
    image, mask = pair
    for row_index in range(5):
        scale = SCALED.draw(0, 0, row_index).scale
        _, ours = augment(image, mask, SCALED, 0, 0, row_index)
        theirs = tv.affine(torch.from_numpy(np.array(mask))[None], 0, [0, 0], scale, [0, 0], fill=[255])[0].numpy()
        assert (np.asarray(ours) == theirs).mean() > 0.98


def test_scale_is_as_often_above_as_below_one():
    scales = np.array([SCALED.draw(0, 0, row_index).scale for row_index in range(400)])
    assert 1 / 1.5 <= scales.min() < 0.7 and 1.45 < scales.max() <= 1.5
    assert abs(np.log(scales).mean()) < 0.03


SHIFTED = Augmentation(shift=0.3)


def test_shift_agrees_with_torchvision(pair):
    image, mask = pair
    for row_index in range(5):
        change = SHIFTED.draw(0, 0, row_index)
        assert max(abs(change.right), abs(change.down)) <= 0.3
        moved = [change.right * image.width, change.down * image.height]
        _, ours = augment(image, mask, SHIFTED, 0, 0, row_index)
        theirs = tv.affine(torch.from_numpy(np.array(mask))[None], 0, moved, 1, [0, 0], fill=[255])[0].numpy()
        assert (np.asarray(ours) == theirs).mean() > 0.95


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "RGBA"])
def test_reflected_borders_agree_with_a_crop_of_the_mirrored_image(pair, mode):
    """Whatever happens, it is what happens to an image padded by its mirror images, cut to the old size in the end."""
    image = Image.fromarray(np.asarray(pair[0].convert("L")).astype(np.uint16) * 257) if mode == "I;16" else None
    image, mask = image or pair[0].convert(mode), pair[1]
    values, labels, margin = np.asarray(image), np.asarray(mask), 60
    around = ((margin, margin), (margin, margin), (0, 0))
    wide = Image.fromarray(np.pad(values, around[: values.ndim], mode="symmetric"))
    wide_mask = Image.fromarray(np.pad(labels, around[:2], mode="symmetric"))
    crop = (margin, margin, margin + image.width, margin + image.height)
    for row_index in range(10):
        settings = {"rotation_degrees": 180, "horizontal_flip": 0.5, "scale_jitter": 0.5}
        ours, our_mask = augment(image, mask, Augmentation(**settings, border="reflect"), 0, 0, row_index)
        theirs, their_mask = augment(wide, wide_mask, Augmentation(**settings), 0, 0, row_index)
        difference = np.asarray(ours, dtype=float) - np.asarray(theirs.crop(crop), dtype=float)
        assert np.abs(difference).max() <= (257 if mode == "I;16" else 1)
        assert (np.asarray(our_mask) == np.asarray(their_mask.crop(crop))).mean() > 0.99
        assert set(np.unique(our_mask)) <= {0, 1}, "what is mirrored is annotated"


def test_what_an_older_run_drew_is_drawn_still():
    """Recorded before shifts were drawn as well."""
    change = Augmentation(180, 0.5, 0.5, 0.25, 0.2).draw(0, 0, 0)
    draws = np.random.default_rng((0, 0, 0)).random(7)
    assert change.angle == (2 * draws[0] - 1) * 180
    assert change.saturation == 1 + (2 * draws[6] - 1) * 0.2
    assert (change.right, change.down) == (0, 0)


def test_a_border_of_no_kind_is_refused():
    with pytest.raises(ValueError, match="border is 'wrap'; expected mean or reflect"):
        Augmentation(border="wrap")


def test_colors_agree_with_torchvision(pair):
    image, mask = pair
    for row_index in range(5):
        change = RECOLORED.draw(0, 0, row_index)
        ours, same = augment(image, mask, RECOLORED, 0, 0, row_index)
        theirs = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        theirs = tv.adjust_brightness(theirs, change.brightness)
        theirs = tv.adjust_saturation(tv.adjust_contrast(theirs, change.contrast), change.saturation)
        difference = np.abs(np.asarray(ours) - theirs.permute(1, 2, 0).numpy() * 255)
        # They clip after every step, we once at the end.
        assert np.quantile(difference, 0.9) <= 1.5
        np.testing.assert_array_equal(np.asarray(same), np.asarray(mask))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "I;16", "P", "1", "CMYK", "F"])
def test_every_kind_of_image_can_be_recolored(pair, mode):
    image = Image.fromarray(np.asarray(pair[0].convert("L")).astype(np.uint16) * 257) if mode == "I;16" else None
    image = image or pair[0].convert(mode)
    changed, _ = augment(image, pair[1], Augmentation(color_jitter=0.3, scale_jitter=0.2), 0, 0, 0)
    assert changed.size == image.size
    if "A" in mode:
        assert np.asarray(changed.getchannel("A")).min() == 255


def test_sixteen_bit_grey_is_recolored_as_its_eight_bit_version(pair):
    grey = np.asarray(pair[0].convert("L"))
    deep, _ = augment(Image.fromarray(grey.astype(np.uint16) * 257), None, RECOLORED, 0, 0, 1)
    shallow, _ = augment(Image.fromarray(grey), None, RECOLORED, 0, 0, 1)
    assert np.abs(np.asarray(deep) / 257 - np.asarray(shallow)).max() <= 0.51


@pytest.mark.parametrize("modality", [None, "radiography"])
def test_of_an_unknown_kind_nothing_is_assumed(pair, modality):
    image, mask = pair
    for row_index in range(20):
        same, same_mask = augment(image, mask, default_augmentation(modality), 0, 0, row_index)
        np.testing.assert_array_equal(np.asarray(same), np.asarray(image))
        np.testing.assert_array_equal(np.asarray(same_mask), np.asarray(mask))


@pytest.mark.parametrize("modality", ["oct", "ultrasound", "fundus"])
def test_what_has_an_up_is_never_turned_upside_down(modality):
    changes = [AUGMENTATIONS[modality].draw(0, epoch, row) for epoch in range(5) for row in range(100)]
    assert max(abs(change.angle) for change in changes) <= 15
    assert not any(change.vertical for change in changes)
    assert any(change.horizontal for change in changes)


def test_an_augmentation_in_words():
    assert str(Augmentation()) == "none"
    assert str(AUGMENTATIONS["oct"]) == "rotation by up to 15 degrees, left-right flip with probability 0.5"
    text = str(Augmentation(0, 0, 1, 0.25, 0.2))
    assert text == (
        "upside-down flip with probability 1, scale by up to 1.25, brightness, contrast and saturation by up to 20%"
    )
    text = str(Augmentation(shift=0.1, border="reflect"))
    assert text == "shift by up to 10%, reflected borders"
