# Registers `mmdiscard.*` before anything of the config is built.
custom_imports = dict(imports=['mmdiscard'], allow_failed_imports=False)
