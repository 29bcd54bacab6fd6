"""Pairs do not start through neighbours that match in part only."""

import torch

from ssem_dask.field.grid import Grid
from ssem_dask.registration.gauss_newton.hops import broken_hops, neighbour_pairs, path_between


def test_a_pair_of_which_a_third_disagrees_is_broken_in_both_directions() -> None:
    nodes = Grid((12, 12), 16.0)
    shift = torch.full((2, 12, 12), 3.0)
    wrong = shift.clone()
    wrong[:, :, 8:] = 40.0
    fields = {(1, 0): shift, (0, 1): -shift, (2, 1): wrong, (1, 2): -shift, (2, 0): wrong, (0, 2): shift}
    assert broken_hops(fields, nodes=nodes, tolerance=8.0) == {(2, 1), (1, 2)}
    assert broken_hops({}, nodes=nodes, tolerance=8.0) == set()


def test_paths_and_the_pairs_that_they_are_made_of() -> None:
    assert path_between((3, 1)) == [(3, 2), (2, 1)]
    assert path_between((1, 3)) == [(1, 2), (2, 3)]
    assert neighbour_pairs([(3, 1), (2, 1), (0, -1)]) == [(2, 1), (3, 2)]
