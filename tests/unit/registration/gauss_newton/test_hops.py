"""Pairs do not start through neighbours that match in part only."""

import torch

from ssem_dask.field.grid import Grid
from ssem_dask.registration.gauss_newton.hops import broken_hops, neighbour_pairs, path_between, spoilt_sections


def test_a_pair_of_which_a_third_disagrees_is_broken_in_both_directions() -> None:
    nodes = Grid((12, 12), 16.0)
    shift = torch.full((2, 12, 12), 3.0)
    wrong = shift.clone()
    wrong[:, :, 8:] = 40.0
    fields = {(1, 0): shift, (0, 1): -shift, (2, 1): wrong, (1, 2): -shift, (2, 0): wrong, (0, 2): -shift}
    hops = [(1, 0), (2, 1), (3, 2)]
    assert broken_hops(fields, hops, nodes=nodes, tolerance=8.0) == {(2, 1), (1, 2)}
    # Two thirds are enough for sections that are no neighbours.
    assert broken_hops(fields, [(2, 0)], nodes=nodes, tolerance=8.0) == set()
    fields[0, 2] = 3 * shift
    assert broken_hops(fields, [(2, 0)], nodes=nodes, tolerance=8.0) == {(2, 0), (0, 2)}
    assert broken_hops({}, hops, nodes=nodes, tolerance=8.0) == set()


def test_paths_and_the_pairs_that_they_are_made_of() -> None:
    assert path_between((3, 1)) == [(3, 2), (2, 1)]
    assert path_between((1, 3)) == [(1, 2), (2, 3)]
    assert neighbour_pairs([(3, 1), (2, 1), (0, -1)]) == [(2, 1), (3, 2)]


def test_a_skipped_section_makes_those_around_it_neighbours() -> None:
    assert path_between((4, 1), skipped={2}) == [(4, 3), (3, 1)]
    assert path_between((1, 4), skipped={2, 3}) == [(1, 4)]
    assert path_between((2, 1), skipped={2}) == [(2, 1)]  # its own pairs are those of any section
    assert neighbour_pairs([(3, 1), (4, 1)], skipped={2}) == [(3, 1), (4, 3)]


def test_a_section_is_spoilt_if_it_agrees_with_neither_neighbour() -> None:
    broken = {(3, 2), (2, 3), (2, 1), (1, 2), (6, 5), (5, 6)}
    assert spoilt_sections(broken, count=8) == {2}
