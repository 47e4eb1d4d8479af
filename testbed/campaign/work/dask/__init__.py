"""Workers on a Dask cluster. Nothing else of the package imports Dask."""
