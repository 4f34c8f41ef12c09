"""What is known of the datasets: who may see them, what they cost a user to cite, and what the paper reports on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


PAPER = """@article{resformer2024,
  title   = {Multi-scale Feature Enhancement in Multi-task Learning for Medical Image Analysis},
  journal = {arXiv:2412.00351},
  year    = {2024}
}"""
SOFTWARE = """@software{resformer_hf,
  title  = {ResFormer for Hugging Face},
  author = {{The ResFormer maintainers}},
  note   = {an independent implementation of arXiv:2412.00351}
}"""
ISIC_2017_CITATION = """@article{codella2017skin,
  title   = {Skin lesion analysis toward melanoma detection: a challenge at the 2017 International Symposium on Biomedical
             Imaging (ISBI), hosted by the International Skin Imaging Collaboration (ISIC)},
  author  = {Codella, Noel C. F. and others},
  journal = {arXiv:1710.05006},
  year    = {2017}
}"""
RETOUCH_CITATION = """@article{bogunovic2019retouch,
  title   = {{RETOUCH}: The Retinal {OCT} Fluid Detection and Segmentation Benchmark and Challenge},
  author  = {Bogunovi{\\'c}, Hrvoje and others},
  journal = {IEEE Transactions on Medical Imaging},
  volume  = {38},
  number  = {8},
  pages   = {1858--1874},
  year    = {2019}
}"""


@dataclass(frozen=True)
class Source:
    """A dataset as the cards speak of it.

    Attributes:
        title: its name.
        modality: what its images are; empty where that is unknown.
        licence: of the data, in words.
        images_are_free: whether anybody may pass its images on.
        gated: whether its organisers decide who may hold it.
        weights_licence: Hub id of the licence that weights trained on it get unless another is named; None for none.
        limits: what is known to be narrow about it.
        unseen: what its images do not show, and what a model trained on it must be expected to get wrong.
        citation: BibTeX, or None.
        tags: for the Hub.
        paper: rows of the paper's own results, (what, JI, DSC, accuracy, sensitivity, specificity) in percent.
        paper_tables: where they stand in the paper.
    """

    title: str
    modality: str
    licence: str
    images_are_free: bool
    gated: bool
    weights_licence: str | None
    limits: str
    unseen: str
    citation: str | None = None
    tags: Sequence[str] = ()
    paper: Sequence[tuple[str, ...]] = field(default=())
    paper_tables: str = ""


SOURCES: Mapping[str, Source] = {
    "isic2017": Source(
        title="ISIC 2017",
        modality="dermoscopic photographs",
        licence="CC0 1.0 (public domain dedication), International Skin Imaging Collaboration",
        images_are_free=True,
        gated=False,
        weights_licence="apache-2.0",
        limits="Mostly fair skin, specialist centres, one visit per lesion, three diagnoses only. Near-duplicates exist "
        "within and across splits of this collection, so that held-out figures may flatter.",
        unseen="other devices and magnifications, other kinds of lesion, ink, rulers, coloured patches and hair across the "
        "lesion, several lesions in one image, and images that show none",
        citation=ISIC_2017_CITATION,
        tags=("dermatology", "dermoscopy"),
        paper=(
            ("sequential", "78.6", "86.6", "84.6", "75.7", "89.1"),
            ("parallel", "78.4", "86.5", "83.6", "74.3", "88.3"),
        ),
        paper_tables="Table 4",
    ),
    "retouch": Source(
        title="RETOUCH",
        modality="B-scans of retinal optical coherence tomography (OCT)",
        licence="gated by the RETOUCH challenge's own agreement; may not be redistributed without its organisers' consent",
        images_are_free=False,
        gated=True,
        weights_licence=None,
        limits="Three devices, two centres, adults with macular oedema or degeneration.",
        unseen="other devices and scan protocols, other diseases of the retina, weak signal, shadows and motion",
        citation=RETOUCH_CITATION,
        tags=("ophthalmology", "oct"),
        paper=(
            ("Cirrus, sequential", "73.4", "83.0", "98.9", "98.1", "99.2"),
            ("Cirrus, parallel", "73.9", "83.4", "99.0", "98.3", "99.3"),
            ("Spectralis, sequential", "70.4", "80.3", "97.8", "96.8", "98.3"),
            ("Spectralis, parallel", "71.6", "81.4", "97.7", "96.0", "98.6"),
            ("Topcon, sequential", "64.9", "76.3", "98.0", "96.9", "98.5"),
            ("Topcon, parallel", "65.7", "76.9", "97.9", "96.9", "98.3"),
        ),
        paper_tables="Table 8",
    ),
    "retouch_phantom": Source(
        title="the OCT PHANTOM in the layout of RETOUCH",
        modality="B-scans that a computer drew",
        licence="drawn by examples/oct_phantom.py; nobody's data",
        images_are_free=True,
        gated=False,
        weights_licence="apache-2.0",
        limits="A PHANTOM: no patient was ever seen, and no figure here says anything about patients.",
        unseen="every real eye and every real device",
        tags=("oct", "synthetic-data"),
    ),
}

# Of a folder of one's own nothing is known but what its owner says.
UNKNOWN = Source(
    title="a dataset of the trainer's own",
    modality="",
    licence="not recorded",
    images_are_free=False,
    gated=False,
    weights_licence=None,
    limits="Not recorded. Ask whoever trained it where the images come from before believing any figure.",
    unseen="any image that was not taken as those it was trained on",
)

# Of data made up to test software, in whatever layout, when their owner says no more.
SYNTHETIC = Source(
    title="made-up data",
    modality="",
    licence="made-up data",
    images_are_free=False,
    gated=False,
    weights_licence=None,
    limits="They are made up, and show nothing of any patient.",
    unseen="every real image",
)


def source_named(name: str | None) -> Source:
    """The source that a prepared dataset records; `UNKNOWN` for any other."""
    return SOURCES.get(name or "", UNKNOWN)
