"""Who a DICOM file is of does not leave it: every byte of every output is searched for what the headers say."""

import base64
import gzip
import re
import shutil
import warnings
import zlib

import numpy as np
import pyarrow.parquet
import pytest
from dicom_data import PHOTOGRAPH, dataset_of, save, write_oct, write_series
from PIL import Image

from modeling_resformer.errors import BadInputError
from modeling_resformer.volumes.dicom import read_dicom_image


highdicom = pytest.importorskip("highdicom")

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence


SECRETS = {
    "PatientName": "Quixote^Alonso",
    "PatientID": "HOSPITAL-4711",
    "PatientBirthDate": "19470311",
    "PatientAddress": "Windmill Lane 5",
    "OtherPatientNames": "Quijano^Alonso",
    "PatientComments": "likes horses",
    "EthnicGroup": "MANCHEGO",
    "Occupation": "KNIGHT",
    "InstitutionName": "Hospital of Toboso",
    "InstitutionAddress": "Inn Road 1",
    "StationName": "ROCINANTE01",
    "AccessionNumber": "ACC90210",
    "StudyID": "STUDY777",
    "StudyDate": "20190817",
    "StudyTime": "031415",
    "AcquisitionDate": "20190818",
    "StudyDescription": "mole above the lance",
    "SeriesDescription": "second sally",
    "ProtocolName": "sancho protocol",
    "ReferringPhysicianName": "Panza^Sancho",
    "PerformingPhysicianName": "Carrasco^Sanson",
    "OperatorsName": "Dulcinea^D",
    "DeviceSerialNumber": "SERIAL-123-XYZ",
    "ImageComments": "seen by cervantes",
    "RequestedProcedureID": "REQ555",
    "ClinicalTrialSubjectID": "TRIAL-9",
}
FRAME_COMMENT = "frame of cervantes"


@pytest.fixture
def inputs(tmp_path):
    """A series, a file of several frames and a photograph of one patient, and a JPEG whose header names somebody."""
    voxels = np.random.default_rng(0).integers(0, 256, (3, 24, 32), dtype=np.uint8)
    placed = {"FrameOfReferenceUID": "1.2.3.5", **SECRETS}
    write_series(tmp_path / "series", voxels, SliceThickness=2.5, **placed)
    path = write_oct(tmp_path / "eye.dcm", voxels, **placed)
    eye = pydicom.dcmread(path)
    content = Dataset()
    content.FrameComments = FRAME_COMMENT
    for frame in eye.PerFrameFunctionalGroupsSequence:
        frame.FrameContentSequence = Sequence([content])
    save(eye, path)
    save(dataset_of(np.repeat(voxels[0][..., None], 3, axis=2), PHOTOGRAPH, **SECRETS), tmp_path / "mole.dcm")
    exif = Image.Exif()
    exif[0x013B], exif[0x010E] = "Quixote Alonso", "likes horses"  # artist, description
    Image.fromarray(voxels[1]).save(tmp_path / "photo.jpg", exif=exif, comment=b"seen by cervantes")
    return [str(tmp_path / name) for name in ("series", "eye.dcm", "mole.dcm", "photo.jpg")]


def secrets_in(folder, kept=()):
    """Which of the secrets stand in any byte of any file, packed ones unpacked."""
    words = {name: value.split("^")[0].encode() for name, value in SECRETS.items()} | {"Frame": FRAME_COMMENT.encode()}
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            content += gzip.decompress(content) if path.suffix == ".gz" else b""
            if path.suffix == ".parquet":
                content += repr(pyarrow.parquet.read_table(path).to_pylist()).encode()
            embedded = re.findall(rb"data:image/[\w+.-]+;base64,([\w+/=]+)", content)
            assert embedded or path.parent.name != "reports"
            content += b"".join(base64.b64decode(image) for image in embedded)
            content += b"".join(png_texts(content))
            found |= {name for name, word in words.items() if word in content or word in path.name.encode()}
    return found


def png_texts(content):
    """What compressed text chunks of a PNG hold."""
    for kind in (b"zTXt", b"iTXt", b"iCCP"):
        for part in content.split(kind)[1:]:
            start = part.find(b"\x78")
            try:
                yield zlib.decompressobj().decompress(part[start:])
            except zlib.error:
                continue


def test_no_output_says_who_it_is(predict, model, inputs, tmp_path):
    output = tmp_path / "out"
    flags = ["--dicom-seg", "--report", "--worklist", "--tta", "horizontal", "--cpu-threads", "1"]
    assert predict([model, *inputs, "--output", str(output), *flags]) == 0
    assert {path.name for path in (output / "dicom_seg").iterdir()} == {"series.dcm", "eye.dcm", "mole.dcm"}
    assert len(list((output / "reports").iterdir())) == 4
    assert secrets_in(output) == set()
    for path in (output / "dicom_seg").iterdir():
        made = pydicom.dcmread(path)
        assert made.PatientID == path.stem and made.PatientIdentityRemoved == "YES" and made.DeidentificationMethod
        assert not made.PatientName and not made.StudyDate and not made.AccessionNumber
        # Whoever has the images still finds them.
        source = pydicom.dcmread(
            inputs[1] if path.stem == "eye" else inputs[2] if path.stem == "mole" else _first(inputs[0])
        )
        assert made.StudyInstanceUID == source.StudyInstanceUID
        named = {one.ReferencedSOPInstanceUID for one in made.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
        assert source.SOPInstanceUID in named
        assert highdicom.seg.segread(path).segmented_property_types


def _first(folder):
    from pathlib import Path

    return sorted(Path(folder).iterdir())[0]


def test_what_is_wrong_with_a_file_is_told_without_what_it_holds(predict, model, inputs, tmp_path, capfd):
    """A length or a type that is wrong makes one field read another's text, and libraries quote what they meet."""
    whole = (tmp_path / "mole.dcm").read_bytes()
    rng = np.random.default_rng(0)
    types = [match.start() for match in re.finditer(rb"[A-Z]{2}", whole[132:2000])]
    told = set()
    folder = tmp_path / "damaged"
    folder.mkdir()
    for number in range(300):
        damaged, place = bytearray(whole), 132 + int(rng.choice(types))
        damaged[place : place + 2] = rng.choice([b"DS", b"IS", b"FD", b"US", b"UI", b"AT", b"UL"])
        if number % 2:
            damaged[place + 2 : place + 4] = rng.integers(0, 100, 2, dtype=np.uint8).tobytes()
        path = folder / "one.dcm"
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                read_dicom_image(path)
            except BadInputError as error:
                told.add(str(error))
                shutil.copy(path, folder / f"{number}.dcm")
        told |= {str(warning.message) for warning in warned}
    assert len(told) > 10
    words = [value.split("^")[0] for value in SECRETS.values()]
    assert not [text for text in told for word in words if word in text]
    kept = sorted(map(str, folder.glob("[0-9]*.dcm")))[:5]
    assert predict([model, *kept, "--output", str(tmp_path / "out")]) == 1
    assert secrets_in(tmp_path / "out") == set()
    said = "".join(capfd.readouterr())
    assert not [word for word in words if word in said]


def test_what_the_images_say_is_kept_where_it_is_asked_for_and_in_the_segmentations_alone(
    predict, model, inputs, tmp_path
):
    output = tmp_path / "out"
    arguments = [model, *inputs, "--output", str(output), "--dicom-seg", "--report", "--cpu-threads", "1"]
    assert predict([*arguments, "--keep-identifiers"]) == 0
    assert secrets_in(output / "dicom_seg") >= {
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "AccessionNumber",
        "StudyID",
    }
    for kind in ("reports", "masks", "overlays", "thumbnails", "journal"):
        assert secrets_in(output / kind) == set()
    assert predict(arguments) == 1, "one folder does not hold both kinds"


def test_the_flag_needs_segmentations(predict, model, inputs, tmp_path, capsys):
    with pytest.raises(SystemExit):
        predict([model, *inputs, "--output", str(tmp_path / "out"), "--keep-identifiers"])
    assert "--keep-identifiers is for --dicom-seg" in capsys.readouterr().err
