# The one thing a config needs to use this plugin.
custom_imports = dict(imports=["mmcarafe.models"], allow_failed_imports=False)
