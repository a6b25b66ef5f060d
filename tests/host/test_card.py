"""On a card whose memory the host manages, however little of it there is, nothing is on two devices, is float64 there
or is waited for. A simulated card takes the GPU's place, see simulated_card.py and card_probe.py.
"""

from pathlib import Path

import pytest

PROBE = Path(__file__).parent / "card_probe.py"


def failures(report: dict, *words: str) -> dict:
    """What went wrong in the cases with one of the words in their names; there is at least one such case."""
    cases = {case: error for case, error in report.items() if any(word in case for word in words)}
    assert cases
    return {case: error for case, error in cases.items() if error is not None}


@pytest.fixture(scope="module", params=["da3", "vggt"])
def report(request, run_with_host, models):
    folder = models
    if request.param == "vggt":
        folder = Path(__file__).parents[3] / "shared" / "golden" / "tiny-vggt"
        if not folder.is_dir():
            pytest.skip(f"{folder} is not there: VGGT's networks were not tried on a simulated card")
    return run_with_host(PROBE, folder, request.param)


def test_networks_run_with_all_weights_on_the_card(report):
    assert failures(report, ", all") == {}


def test_networks_run_with_weights_streamed_to_the_card(report):
    assert failures(report, "none", "half", "%") == {}


def test_networks_run_with_dynamic_vram(report):
    assert failures(report, "dynamic with") == {}


def test_a_dynamic_model_can_be_cloned_to_a_classic_one(report):
    """As Torch Compile Model, Select Model Device and hooks do."""
    assert failures(report, "classic") == {}
