"""Masks of DICOM as DICOM Segmentation, read back by highdicom: pixels over their own images, place, codes; and what is refused."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from prediction_tables import rows_of
from small_model import tiny_config


highdicom = pytest.importorskip("highdicom")

import pydicom
from dicom_data import PHOTOGRAPH, dataset_of, save, write_oct, write_series
from highdicom.seg import segread

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor, ResFormerMultiTaskOutput
from modeling_resformer.errors import BadInputError
from modeling_resformer.prediction.predictor import load_pipeline, weights_digest
from modeling_resformer.volumes.dicom_seg import SegmentationWriter, read_segment_codes


SIZE = 48
SKIN_LESION = {"value": "95324001", "meaning": "Skin lesion"}
PLACED = {"FrameOfReferenceUID": "1.2.3.5", "StudyDate": "20261126", "SpecificCharacterSet": "ISO_IR 100"}
PLACED["PatientName"] = "Müller^Zoë"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = tiny_config(id2label={0: "background", 1: "fluid", 2: "never"}, classification_labels=["fluid"])
    ResFormerForMultiTask(config).save_pretrained(folder)
    ResFormerImageProcessor(size={"height": SIZE, "width": SIZE}, do_normalize=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def bright_is_fluid(monkeypatch):
    def forward(self, pixel_values, **options):
        brightness = pixel_values[:, :1] - 0.5
        logits = torch.cat([torch.zeros_like(brightness), 100 * brightness, brightness - 1], dim=1)
        return ResFormerMultiTaskOutput(segmentation_logits=logits, classification_logits=brightness.amax((2, 3)))

    monkeypatch.setattr(ResFormerForMultiTask, "forward", forward)


@pytest.fixture(scope="module")
def voxels():
    """Five slices of a bright box, larger from slice to slice, the first empty."""
    voxels = np.full((5, SIZE, SIZE), 30, np.uint8)
    for index in range(1, 5):
        voxels[index, 10 : 14 + 4 * index, 6 : 20 + 2 * index] = 220
    return voxels


def test_volumes_and_photographs_get_segmentations_over_their_own_images(predict, model, voxels, tmp_path):
    paths = write_series(tmp_path / "series", voxels, **PLACED)
    write_oct(tmp_path / "eye.dcm", voxels, **PLACED)
    photograph = np.repeat(voxels[2][..., None], 3, axis=2)
    save(dataset_of(photograph, PHOTOGRAPH, StudyInstanceUID="1.9"), tmp_path / "mole.dcm")
    codes = tmp_path / "codes.json"
    codes.write_text(json.dumps({"fluid": SKIN_LESION}))
    inputs = [str(tmp_path / name) for name in ("series", "eye.dcm", "mole.dcm")]
    arguments = [model, *inputs, "--output", str(tmp_path / "out"), "--dicom-seg", "--segment-codes", str(codes)]
    assert predict([*arguments, "--cpu-threads", "1", "--no-overlays", "--keep-identifiers"]) == 0
    truth = voxels > 127

    series = segread(tmp_path / "out/dicom_seg/series.dcm")
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in paths]  # by slice, whatever the files are called
    found = series.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(found[..., 0], truth)
    assert not found[..., 1].any()
    assert (series.PatientName, series.StudyDate, series.FrameOfReferenceUID) == ("Müller^Zoë", "20261126", "1.2.3.5")
    volume = series.get_volume(combine_segments=True)
    places = volume.map_indices_to_reference(np.array([[index, 0, 0] for index in range(len(volume.array))]))
    slices = np.rint((places[:, 2] - 30) / 2.5).astype(int)
    assert sorted(slices) == [1, 2, 3, 4]  # the empty one takes no room
    np.testing.assert_array_equal(volume.array, truth[slices])
    np.testing.assert_allclose(places[:, :2], [[10, -20]] * 4)
    assert volume.spacing == pytest.approx((2.5, 0.5, 0.75))

    fluid, never = (series.get_segment_description(number) for number in (1, 2))
    assert (fluid.segment_label, never.segment_label) == ("fluid", "never")
    assert fluid.segmented_property_type == highdicom.sr.CodedConcept("95324001", "SCT", "Skin lesion")
    assert fluid.segmented_property_category.value == "49755003"
    assert never.segmented_property_type == highdicom.sr.CodedConcept("class-2", "99RESFORMER", "never")
    assert series.DeviceSerialNumber == weights_digest(load_pipeline(model, None, torch.device("cpu")).model)

    eye = segread(tmp_path / "out/dicom_seg/eye.dcm")
    uid = pydicom.dcmread(tmp_path / "eye.dcm").SOPInstanceUID
    found = eye.get_pixels_by_source_frame(uid, [1, 2, 3, 4, 5], assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(found[..., 0], truth)

    mole = segread(tmp_path / "out/dicom_seg/mole.dcm")
    assert mole.StudyInstanceUID == "1.9"
    found = mole.get_pixels_by_source_instance([pydicom.dcmread(tmp_path / "mole.dcm").SOPInstanceUID])
    np.testing.assert_array_equal(found[0, ..., 0], truth[2])

    assert [row["dicom_seg"] for row in rows_of(tmp_path / "out", "volumes")] == [
        "dicom_seg/series.dcm",
        "dicom_seg/eye.dcm",
    ]
    assert rows_of(tmp_path / "out")[-1]["dicom_seg"] == "dicom_seg/mole.dcm"


def test_a_single_slice_and_an_empty_mask(tmp_path, caplog):
    (path,) = write_series(tmp_path / "one", np.zeros((1, 6, 8), np.uint8), SliceThickness=2.0, **PLACED)
    writer = SegmentationWriter(("Ödem",), {}, "0" * 64)
    for mask in (np.zeros((1, 6, 8), np.uint8), np.ones((1, 6, 8), np.uint8)):
        segmentation = segread(writer.write(tmp_path / "mask.dcm", mask, [path]))
        np.testing.assert_array_equal(segmentation.pixel_array.reshape(1, 6, 8), mask)
        assert segmentation.get_segment_description(1).segment_label == "Ödem"
    assert not caplog.messages


def test_a_run_goes_on_only_with_the_same_codes(predict, model, voxels, tmp_path, capsys, caplog):
    write_oct(tmp_path / "eye.dcm", voxels[:2], **PLACED)
    arguments = [
        model,
        str(tmp_path / "eye.dcm"),
        "--output",
        str(tmp_path / "out"),
        "--no-overlays",
        "--cpu-threads",
        "1",
    ]
    assert predict([*arguments, "--dicom-seg"]) == 0
    assert predict([*arguments, "--dicom-seg"]) == 0
    assert "2 images and slices, 0 of them now" in capsys.readouterr().out
    assert predict(arguments) == 1
    assert "dicom_seg" in caplog.messages[-1]
    assert predict([*arguments, "--overwrite"]) == 0
    assert not (tmp_path / "out/dicom_seg").exists()


def test_a_volume_without_a_place_is_named_and_the_rest_done(predict, model, voxels, tmp_path):
    write_oct(tmp_path / "nowhere.dcm", voxels[:2])
    write_oct(tmp_path / "eye.dcm", voxels[:2], **PLACED)
    flags = ["--output", str(tmp_path / "out"), "--no-overlays", "--dicom-seg", "--cpu-threads", "1"]
    assert predict([model, str(tmp_path), *flags]) == 1
    (problem,) = json.loads((tmp_path / "out/problems.json").read_text())
    assert "nowhere.dcm: no DICOM segmentation can be laid over it (" in problem["problem"]
    assert problem["problem"].endswith("predict it without --dicom-seg")
    assert [path.name for path in (tmp_path / "out/dicom_seg").iterdir()] == ["eye.dcm"]
    assert not (tmp_path / "out/masks/nowhere.nii.gz").exists()


def test_without_dicom_there_is_nothing_to_lay_it_over(predict, model, tmp_path, caplog):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    assert predict([model, str(tmp_path), "--output", str(tmp_path / "out"), "--dicom-seg"]) == 1
    assert "none of the 1 inputs is DICOM" in caplog.messages[-1] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content, said",
    [
        ("{", "not JSON"),
        ("[]", "is no object"),
        ('{"tumour": {"value": "95324001", "meaning": "x"}}', "tumour is no mask class of the model; it has lesion"),
        ('{"lesion": "95324001"}', 'lesion is "95324001"; expected {"CLASS"'),
        ('{"lesion": {"value": "95324001"}}', "lesion is {"),
        ('{"lesion": {"value": 95324001, "meaning": "Skin lesion"}}', "lesion has 95324001; expected text"),
        ('{"lesion": {"value": "D0-F035F", "meaning": "x"}}', "expected a SNOMED CT identifier"),
        ('{"lesion": {"value": "1", "scheme": "99X", "meaning": "x", "category": {}}}', "lesion, category is {}"),
        (None, "cannot be read (No such file"),
    ],
)
def test_codes_that_cannot_be_used(tmp_path, content, said):
    if content is not None:
        (tmp_path / "codes.json").write_text(content)
    with pytest.raises(BadInputError, match=re.escape(said)) as error:
        read_segment_codes(tmp_path / "codes.json", ["lesion"])
    assert "codes.json" in str(error.value) and "\n" not in str(error.value)


def test_codes_of_other_schemes_and_categories(tmp_path):
    tissue = {"value": "85756007", "meaning": "Tissue"}
    lesion = {"value": "C3824", "scheme": "NCIt", "meaning": "Skin lesion", "category": tissue}
    (tmp_path / "codes.json").write_text(json.dumps({"lesion": lesion}))
    code = read_segment_codes(tmp_path / "codes.json", ["lesion"])["lesion"]
    assert (code.type.value, code.type.scheme_designator, code.category.value) == ("C3824", "NCIt", "85756007")
