"""One module a command, each with `run(config, options) -> Results`: reads its settings, writes its
folder.
"""
