"""Where examples come from: files, packages and downloads become a `Dataset`."""
