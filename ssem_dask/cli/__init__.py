"""The command line: thin commands over the pipeline. Results on stdout, logs and progress on stderr."""
