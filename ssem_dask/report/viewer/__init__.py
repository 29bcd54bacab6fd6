"""Looking into a run with neuroglancer: a server on loopback that holds the client, the data and where to look."""
