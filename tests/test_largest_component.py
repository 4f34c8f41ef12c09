"""Keeping the largest connected part of each mask class: against scipy's, and through post-processing."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from modeling_resformer import ResFormerImageProcessor, ResFormerImageProcessorPil
from modeling_resformer.image_processing_pil_resformer import component_labels, largest_component


EIGHT_NEIGHBOURS = np.ones((3, 3))


def blobs(height, width, share, seed):
    """Smooth random patches that cover a share of the plane."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 2)
    return torch.from_numpy(noise > np.quantile(noise, 1 - share))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("size", [(64, 64), (37, 90), (1, 50)])
def test_parts_are_scipys(size, share):
    mask = blobs(*size, share, seed=3)
    expected, count = ndimage.label(mask.numpy(), EIGHT_NEIGHBOURS)
    labels = component_labels(mask).numpy()
    pairs = set(zip(labels.flatten(), expected.flatten(), strict=True))
    assert (
        len(pairs)
        == len({one for one, _ in pairs})
        == len({other for _, other in pairs})
        == count + (expected == 0).any()
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_largest_is_scipys(seed):
    mask = blobs(60, 80, 0.3, seed)
    labels, count = ndimage.label(mask.numpy(), EIGHT_NEIGHBOURS)
    sizes = ndimage.sum_labels(mask.numpy(), labels, range(1, count + 1))
    assert count > 1 and (sizes == sizes.max()).sum() == 1
    assert torch.equal(largest_component(mask), torch.from_numpy(labels == 1 + sizes.argmax()))


def test_a_spiral_is_one_part():
    """The longest way there is from one end of a part to the other."""
    plane = np.zeros((41, 41), dtype=bool)
    row, column, step, length = 20, 20, (0, 1), 2
    while 0 <= row < 41 and 0 <= column < 41:
        for _ in range(length):
            if not (0 <= row < 41 and 0 <= column < 41):
                break
            plane[row, column] = True
            row, column = row + step[0], column + step[1]
        step, length = (step[1], -step[0]), length + 1
    assert ndimage.label(plane, EIGHT_NEIGHBOURS)[1] == 1
    assert torch.equal(largest_component(torch.from_numpy(plane)), torch.from_numpy(plane))


@pytest.mark.parametrize("value", [False, True])
def test_an_empty_and_a_full_mask_stay(value):
    mask = torch.full((5, 7), value)
    assert torch.equal(largest_component(mask), mask)


def test_of_a_large_mask_the_larger_part_stays_to_the_pixel():
    mask = torch.zeros(1500, 1100, dtype=torch.bool)
    mask[100:400, 100:401] = True
    mask[700:1000, 500:800] = True
    mask[1400, 3] = True
    kept = largest_component(mask)
    assert kept[100:400, 100:401].all() and kept.sum() == 300 * 301


def two_classes():
    """(1, 3, 8, 10) logits: class 1 in a part of 6 pixels and one of 2, class 2 in one of 4 that touches nothing."""
    masks = torch.zeros(8, 10, dtype=torch.long)
    masks[0:2, 0:3], masks[5, 0:2], masks[4:6, 7:9] = 1, 1, 2
    return masks, torch.nn.functional.one_hot(masks, 3).movedim(-1, 0)[None].float() * 4


@pytest.mark.parametrize("processor_class", [ResFormerImageProcessor, ResFormerImageProcessorPil])
def test_post_processing_leaves_the_rest_to_the_background(processor_class, tmp_path):
    masks, logits = two_classes()
    (everything,) = processor_class().post_process_semantic_segmentation({"logits": logits})
    assert torch.equal(everything, masks)
    processor_class(keep_largest_component=True).save_pretrained(tmp_path)
    (kept,) = processor_class.from_pretrained(tmp_path).post_process_semantic_segmentation({"logits": logits})
    masks[5, 0:2] = 0
    assert torch.equal(kept, masks)


def test_what_is_dropped_stays_dropped_at_a_larger_size_and_its_scores_say_so():
    masks, logits = two_classes()
    processor = ResFormerImageProcessor(keep_largest_component=True)
    (answer,) = processor.post_process_semantic_segmentation(
        {"logits": logits}, target_sizes=[(80, 100)], return_segmentation_scores=True
    )
    assert not answer.segmentation[45:65, 0:30].any()
    assert (answer.segmentation_scores[1:].amax(0) <= answer.segmentation_scores[0])[45:65, 0:30].all()
    assert torch.equal(answer.segmentation[5::10, 5::10][:2], masks[:2])
