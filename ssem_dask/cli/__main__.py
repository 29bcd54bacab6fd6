"""`python -m ssem_dask.cli`: the same as the `ssem-dask` script."""

from ssem_dask.cli.main import main

if __name__ == "__main__":
    main()
