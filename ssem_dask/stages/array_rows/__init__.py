"""Arrays of a run by stage, one row each; `stages.run_arrays` lists all of them."""
