"""Figures about the names of spoilt sections."""

from typing import Any

from benchmarks.spoilt.aligners import NAMED
from benchmarks.spoilt.names import names_of, naming_figures


def case(spoilt: dict[str, str], named: dict[str, str] | None) -> dict[str, Any]:
    return {"state": "done", "spoilt": spoilt, "named": named}


def test_names_are_read_from_notes() -> None:
    assert names_of(["a remark", NAMED + '{"7": "fold"}']) == {"7": "fold"}
    assert names_of(["a remark"]) is None


def test_precision_recall_and_kinds() -> None:
    records = [
        case({"7": "fold_large"}, {"7": "fold"}),
        case({"7": "seam"}, {}),
        case({"7": "turn180"}, {"7": "foreign", "9": "dirt"}),
        case({"7": "black", "8": "dirt"}, {"7": "blank", "8": "dirt"}),
        case({}, {"3": "dirt"}),
        case({"7": "dirt"}, None),
        {"state": "failed"},
    ]
    assert naming_figures(records) == (
        "named: precision 66.7%, recall 80.0%, kind right 60.0%, 1 false names in 1 undamaged stacks; "
        "not right: 1 × seam as ok, 1 × turn180 as foreign"
    )


def test_peers_name_nothing() -> None:
    assert naming_figures([case({"7": "dirt"}, None)]) == "named: no method here names sections"
