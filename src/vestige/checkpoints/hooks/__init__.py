"""What published artefacts do at inference time that no method of ours trains: one file each, one class with a `hook`."""
