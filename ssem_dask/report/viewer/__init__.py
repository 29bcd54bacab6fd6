"""The viewer: a server on the loopback interface that shows a run in neuroglancer."""
