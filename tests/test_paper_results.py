"""The paper's printed figures: read off the paper, and contradicting each other exactly where that is known."""

import pytest

from modeling_resformer.benchmarking.paper import Place, paper_figures, rows_of, slips


# Found by hand, and by nobody else's code.
KNOWN = {
    ("3 (text)", "Ours, parallel over the best other", "Topcon"): "the text says DSC 3.6, the table 2.6",
    ("4 (text)", "Ours, parallel", "ISIC 2017"): "the text says JI 78.6, the table 78.4",
    ("9 (text)", "Parallel, with DFE over Parallel, without DFE", "Spectralis"): "the text says JI 1.3, the table 0.7",
    ("5", "MSL-SRN", "Topcon"): "accuracy 98.0 lies outside 95.5 to 96.6",
    ("4", "He et al.", "ISIC 2017"): "accuracy 83.2, and sensitivity and specificity make 82.33",
    ("4", "Gende et al.", "ISIC 2017"): "accuracy 83.0, and sensitivity and specificity make 80.17",
}


def test_the_rows_that_contradict_are_exactly_the_known_slips():
    found = {}
    for slip in slips():
        found.setdefault((slip.table, slip.row, slip.group), slip.reason)
    assert found == KNOWN


def test_what_stands_twice_is_the_same():
    for of, number, names in (
        ("2", "5", ("Ours, sequential", "Ours, parallel")),
        ("3", "6", ("Ours, sequential", "Ours, parallel")),
        ("4", "7", ("Ours, sequential", "Ours, parallel")),
    ):
        for group in ("Cirrus", "Spectralis", "Topcon", "ISIC 2017"):
            for name in names:
                assert rows_of(of, group).get(name) == rows_of(number, group).get(name)
    for group in ("Cirrus", "Spectralis", "Topcon"):
        both = rows_of("8", group)["Sequential, both"]
        assert both == {**rows_of("2", group)["Ours, sequential"], **rows_of("3", group)["Ours, sequential"]}
        assert rows_of("9", group)["Parallel, with DFE"] == rows_of("3", group)["Ours, parallel"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (Place("2", "Tang et al.", "Spectralis", "Spe"), 98.4),
        (Place("6", "RetiFluidNet", "Topcon", "JI"), 63.1),
        (Place("7", "HTC-Net", "ISIC 2017", "DSC"), 85.4),
        (Place("8", "Parallel, segmentation only", "Spectralis", "DSC"), 80.0),
    ],
)
def test_figures_are_those_on_paper(place, value):
    assert paper_figures()[place] == value


def test_a_wrong_figure_is_found():
    figures = {**paper_figures(), Place("6", "UNet++", "Cirrus", "DSC"): 88.6}
    assert ("6", "UNet++", "Cirrus") in {
        slip[:3] for slip in map(lambda s: (s.table, s.row, s.group, s.reason), slips(figures))
    }
